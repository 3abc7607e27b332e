"""An hour of commits, four a second: 14,400 of 250 rows each through one stream, back to back, while upkeep does its work.

Aims: at most 100 active files, a commit below 25 ms at the median, a log below 20 MB, the last minute queried in less than 50 ms (local).
The query asks analysis for 97 groups of the last 60,000 rows; the read has ReadRows send those rows, and groups them in the client.

The commits come as fast as they are acknowledged, so upkeep has less time than in the hour they stand for, and all versions are
younger than the hour for which the log is kept: none of it is cut.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time
from typing import Any

import numpy as np
import pyarrow as pa

from bench import pairs, serving, stores
from millrace.analysis.v1 import analysis_pb2, analysis_pb2_grpc, query_pb2
from millrace.client.append import Appender, AppendOptions
from millrace.client.channel import Connection, call, open_channel
from millrace.client.tables import Table
from millrace.storage.v1 import storage_pb2, storage_pb2_grpc
from millrace.types.v1 import types_pb2
from millrace.wire.batch import read_batch
from millrace.wire.schema import schema_from_proto, schema_to_proto

NAME = "namespaces/default/tables/hour"
COMMITS, ROWS = int(os.environ.get("BENCH_COMMITS", "14400")), 250
TENTH = max(COMMITS // 10, 1)
LAST_MINUTE_ROWS = min(60, COMMITS // 4) * 4 * ROWS
FIRST_US, END_US = (COMMITS * ROWS - LAST_MINUTE_ROWS) * 1_000, COMMITS * ROWS * 1_000
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


async def measure(
    backend: str, process: serving.Process, analysis: serving.Process, place: stores.Place
) -> dict[str, str]:
    connection = Connection(open_channel(process.target), token=lambda: process.token)
    stub = storage_pb2_grpc.StorageServiceStub(connection.channel)
    made = storage_pb2.Table(name=NAME, schema=schema_to_proto(SCHEMA), event_time_column="at")
    request = storage_pb2.CreateTableRequest(request_id="hour", table=made)
    answer = await call(connection, stub.CreateTable, request, answer=storage_pb2.CreateTableResponse)
    latencies = await _commits(connection)
    table = Table(connection, NAME)
    reads = [await _last_minute(table) for _ in range(15)]
    queries = [await _query(analysis) for _ in range(17)][2:]
    info = (
        await call(
            connection, stub.GetTable, storage_pb2.GetTableRequest(name=NAME), answer=storage_pb2.GetTableResponse
        )
    ).table
    assert info.row_count == COMMITS * ROWS, f"{info.row_count} rows"
    await connection.channel.close()
    cuts = statistics.quantiles(latencies, n=100)
    return {
        "store": backend,
        "commits": f"{COMMITS:,}",
        "p50, ms": f"{cuts[49]:.1f}",
        "p99, ms": f"{cuts[98]:.1f}",
        "p50 of the first tenth, ms": f"{statistics.median(latencies[:TENTH]):.1f}",
        "p50 of the last tenth, ms": f"{statistics.median(latencies[-TENTH:]):.1f}",
        "active files": f"{info.file_count}",
        "log, MB": f"{place.log_bytes(answer.table.uid) / 1e6:.1f}",
        "last minute queried, ms": pairs.spread(queries, 0),
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
            if (number + 1) % TENTH == 0:  # what is known when somebody ends it early
                p50, p99 = np.percentile(latencies[-TENTH:], (50, 99))
                print(f"  {number + 1:,} commits, p50 {p50:.1f}, p99 {p99:.1f} ms", file=sys.stderr, flush=True)
    return latencies


async def _last_minute(table: Table) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    start, end = (pa.scalar(at, pa.timestamp("us", "UTC")).as_py() for at in (FIRST_US, END_US))
    found = await table.read(start=start, end=end, columns=["at", "v0", "name"]).to_arrow()
    found.group_by("name").aggregate([("v0", "mean")])
    assert found.num_rows == LAST_MINUTE_ROWS, f"{found.num_rows} rows"
    return (time.perf_counter() - began) * 1000


async def _query(analysis: serving.Process) -> float:
    """Milliseconds of the same question to analysis, on a channel of its own."""
    spec: Any = {
        "table": "hour",
        "dimensions": [{"column": "name"}],
        "measures": [
            {"name": "n", "aggregate": query_pb2.AGGREGATE_COUNT},
            {"name": "mean", "aggregate": query_pb2.AGGREGATE_AVG, "column": "v0"},
        ],
        "time_range": {"start": _stamp(FIRST_US), "end": _stamp(END_US)},
        "time_column": "at",
    }
    request = analysis_pb2.QueryRequest(spec=spec, encoding=types_pb2.ENCODING_ARROW)
    async with open_channel(analysis.target) as channel:
        await channel.channel_ready()
        began = time.perf_counter()
        ended, groups, schema = False, 0, SCHEMA
        metadata = (("authorization", f"Bearer {analysis.token}"),)
        async for message in analysis_pb2_grpc.AnalysisServiceStub(channel).Query(request, metadata=metadata):
            match message.WhichOneof("message"):
                case "header":
                    schema = schema_from_proto(message.header.schema)
                case "batch":
                    groups += read_batch(message.batch, schema).num_rows
                case "end":
                    ended = True
        assert ended
        assert groups == 97, f"{groups} groups"
        return (time.perf_counter() - began) * 1000


def _stamp(at_us: int) -> dict[str, int]:
    return {"seconds": at_us // 1_000_000, "nanos": at_us % 1_000_000 * 1_000}


def main() -> None:
    rows = []
    for backend in stores.chosen():
        with (
            serving.home() as folder,
            stores.STORES[backend](folder) as place,
            serving.service("storage", folder, {"MILLRACE_STORAGE_DIRECT_FILES": "true", **place.settings}) as process,
            serving.service("analysis", folder, {"MILLRACE_STORAGE_TARGET": process.target}) as analysis,
        ):
            rows.append(asyncio.run(measure(backend, process, analysis, place)))
            print(rows[-1], file=sys.stderr)
    story = (__doc__ or "").strip()
    pairs.write_section(
        "An hour of commits", f"{story}\n\n{pairs.machine(['deltalake', 'pyarrow', 'grpcio'])}\n\n{pairs.table(rows)}\n"
    )


if __name__ == "__main__":
    main()
