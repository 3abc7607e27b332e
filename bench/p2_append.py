"""P2: AppendRows until committed, against `write_deltalake` in the same process.

Ours: over gRPC on loopback, each batch validated against the table's contract, written, fsynced, committed exactly once with the
writer's offset. The peer writes the same rows to a Delta table in its own process, without fsync, exactly-once, or checks.

What limits it: one committer per table, whose Parquet encoding (one thread), fsyncs and log commit follow each other; the peer encodes
on all cores and syncs nothing.
"""

from __future__ import annotations

import asyncio
import statistics
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import deltalake
import numpy as np
import pyarrow as pa

from bench import pairs, serving
from millrace.client.append import Appender, AppendOptions
from millrace.client.channel import Connection, call, open_channel
from millrace.storage.v1 import storage_pb2, storage_pb2_grpc
from millrace.wire.schema import schema_to_proto

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), False),
        pa.field("at", pa.timestamp("us", "UTC"), False),
        *(pa.field(f"v{i}", pa.float64()) for i in range(4)),
        pa.field("name", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Case:
    """`batches` batches of `rows` rows; `each`: every batch is waited for before the next one (latency), else they stream (throughput)."""

    name: str
    rows: int
    batches: int
    each: bool


CASES = (
    Case("1,000-row commits, one after another", 1_000, 40, True),
    Case("streamed, 4,000-row batches", 4_000, 100, False),
    Case("streamed, 50,000-row batches", 50_000, 30, False),
)


def batch(rows: int, first: int) -> pa.RecordBatch:
    rng = np.random.default_rng(first)
    ids = np.arange(first, first + rows)
    columns = [pa.array(ids), pa.array(ids * 1_000_000).cast(SCHEMA.field("at").type)]
    columns += [pa.array(rng.random(rows)) for _ in range(4)]
    return pa.record_batch([*columns, pa.array([f"name {i % 97}" for i in ids])], schema=SCHEMA)


class Ours:
    """Appends to a table of its own, through the client's exactly-once writer."""

    def __init__(self, process: serving.Process) -> None:
        self._runner = asyncio.Runner()
        self._process = process
        self._connection: Connection | None = None
        self.latencies: list[float] = []

    def run(self, case: Case, batches: list[pa.RecordBatch]) -> None:
        self._runner.run(self._append(case, batches))

    async def _append(self, case: Case, batches: list[pa.RecordBatch]) -> None:
        connection = Connection(open_channel(self._process.target), token=lambda: self._process.token)
        name = f"namespaces/default/tables/t{uuid.uuid4().hex[:10]}"
        stub = storage_pb2_grpc.StorageServiceStub(connection.channel)
        table = storage_pb2.Table(name=name, schema=schema_to_proto(SCHEMA))
        request = storage_pb2.CreateTableRequest(request_id=uuid.uuid4().hex, table=table)
        await call(connection, stub.CreateTable, request, answer=storage_pb2.CreateTableResponse)
        async with Appender(connection, AppendOptions(table=name, writer_id="bench")) as writer:
            for rows in batches:
                began = time.perf_counter()
                await writer.append(rows)
                if case.each:
                    await writer.flush()
                    self.latencies.append(time.perf_counter() - began)
        assert writer.totals.rows_written == sum(rows.num_rows for rows in batches)
        await connection.channel.close()

    def close(self) -> None:
        self._runner.close()


def peer(folder: Path, case: Case, batches: list[pa.RecordBatch]) -> None:
    """One table per run; a commit per batch where each is waited for, else one commit for all (the peer's best)."""
    uri = str(folder / f"peer-{uuid.uuid4().hex[:10]}")
    if case.each:
        for rows in batches:
            deltalake.write_deltalake(uri, pa.Table.from_batches([rows]), mode="append")
    else:
        deltalake.write_deltalake(uri, pa.Table.from_batches(batches), mode="append")


def measure(case: Case, process: serving.Process) -> dict[str, str]:
    batches = [batch(case.rows, number * case.rows) for number in range(case.batches)]
    ours = Ours(process)
    pair = pairs.interleave(lambda: ours.run(case, batches), lambda: peer(process.home, case, batches), rounds=5)
    ours.close()
    rows = case.rows * case.batches
    latency = f"{1000 * statistics.median(ours.latencies):.1f} ms" if ours.latencies else ""
    return {
        "case": case.name,
        "ours ÷ peer": pairs.spread(pair.ratios),
        "ours, rows/s": f"{rows / statistics.median(pair.ours_s):,.0f}",
        "peer, rows/s": f"{rows / statistics.median(pair.peer_s):,.0f}",
        "ours, p50 to committed": latency,
    }


def main() -> None:
    with serving.home() as folder, serving.service("storage", folder) as process:
        rows = [measure(case, process) for case in CASES]
    body = f"{__doc__.split(chr(10), 2)[2].strip()}\n\n{pairs.machine(['deltalake', 'pyarrow', 'grpcio'])}\n\n{pairs.table(rows)}\n"
    pairs.write_section("P2 append", body)


if __name__ == "__main__":
    main()
