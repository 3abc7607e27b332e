"""An hour of commits, four a second: 14,400 of 250 rows each through one stream, back to back, while upkeep does its work.

Aims: at most 100 active files, a commit below 25 ms at the median, a log below 20 MB, the last minute read in less than 50 ms (local).

The commits come as fast as they are acknowledged, so upkeep has less time than in the hour they stand for, and all versions are
younger than the hour for which the log is kept: none of it is cut.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time

import numpy as np
import pyarrow as pa

from bench import pairs, serving, stores
from millrace.client.append import Appender, AppendOptions
from millrace.client.channel import Connection, call, open_channel
from millrace.client.tables import Table
from millrace.storage.v1 import storage_pb2, storage_pb2_grpc
from millrace.wire.schema import schema_to_proto

NAME = "namespaces/default/tables/hour"
COMMITS, ROWS = int(os.environ.get("BENCH_COMMITS", "14400")), 250
LAST_MINUTE_ROWS = 60 * 4 * ROWS
SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), False),
        pa.field("at", pa.timestamp("us", "UTC"), False),
        *(pa.field(f"v{i}", pa.float64()) for i in range(4)),
        pa.field("name", pa.string()),
    ]
)


def batch(number: int) -> pa.RecordBatch:
    ids = np.arange(number * ROWS, (number + 1) * ROWS)
    values = [pa.array(ids / (i + 2.0)) for i in range(4)]
    at = pa.array(ids * 1_000).cast(SCHEMA.field("at").type)
    return pa.record_batch([pa.array(ids), at, *values, pa.array([f"name {i % 97}" for i in ids])], schema=SCHEMA)


async def measure(backend: str, process: serving.Process, place: stores.Place) -> dict[str, str]:
    connection = Connection(open_channel(process.target), token=lambda: process.token)
    stub = storage_pb2_grpc.StorageServiceStub(connection.channel)
    made = storage_pb2.Table(name=NAME, schema=schema_to_proto(SCHEMA), event_time_column="at")
    request = storage_pb2.CreateTableRequest(request_id="hour", table=made)
    answer = await call(connection, stub.CreateTable, request, answer=storage_pb2.CreateTableResponse)
    latencies = await _commits(connection)
    table = Table(connection, NAME)
    reads = [await _last_minute(table) for _ in range(15)]
    info = (
        await call(
            connection, stub.GetTable, storage_pb2.GetTableRequest(name=NAME), answer=storage_pb2.GetTableResponse
        )
    ).table
    assert info.row_count == COMMITS * ROWS, f"{info.row_count} rows"
    await connection.channel.close()
    tenth = len(latencies) // 10
    cuts = statistics.quantiles(latencies, n=100)
    return {
        "store": backend,
        "commits": f"{COMMITS:,}",
        "p50, ms": f"{cuts[49]:.1f}",
        "p99, ms": f"{cuts[98]:.1f}",
        "p50 of the first tenth, ms": f"{statistics.median(latencies[:tenth]):.1f}",
        "p50 of the last tenth, ms": f"{statistics.median(latencies[-tenth:]):.1f}",
        "active files": f"{info.file_count}",
        "log, MB": f"{place.log_bytes(answer.table.uid) / 1e6:.1f}",
        "last minute read, ms": pairs.spread(reads, 0),
    }


async def _commits(connection: Connection) -> list[float]:
    """Milliseconds until each was acknowledged."""
    latencies: list[float] = []
    async with Appender(connection, AppendOptions(table=NAME, writer_id="bench")) as writer:
        for number in range(COMMITS):
            rows = batch(number)
            began = time.perf_counter()
            await writer.append(rows)
            await writer.flush()
            latencies.append((time.perf_counter() - began) * 1000)
            if number % 1_440 == 1_439:
                print(f"  {number + 1:,} commits, p50 {statistics.median(latencies[-1_440:]):.1f} ms", file=sys.stderr)
    return latencies


async def _last_minute(table: Table) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    first = (COMMITS * ROWS - LAST_MINUTE_ROWS) * 1_000
    start, end = (pa.scalar(at, pa.timestamp("us", "UTC")).as_py() for at in (first, COMMITS * ROWS * 1_000))
    found = await table.read(start=start, end=end, columns=["at", "v0", "name"]).to_arrow()
    found.group_by("name").aggregate([("v0", "mean")])
    assert found.num_rows == LAST_MINUTE_ROWS, f"{found.num_rows} rows"
    return (time.perf_counter() - began) * 1000


def main() -> None:
    rows = []
    for backend in stores.chosen():
        with (
            serving.home() as folder,
            stores.STORES[backend](folder) as place,
            serving.service("storage", folder, place.settings) as process,
        ):
            rows.append(asyncio.run(measure(backend, process, place)))
            print(rows[-1], file=sys.stderr)
    story = (__doc__ or "").strip()
    pairs.write_section(
        "An hour of commits", f"{story}\n\n{pairs.machine(['deltalake', 'pyarrow', 'grpcio'])}\n\n{pairs.table(rows)}\n"
    )


if __name__ == "__main__":
    main()
