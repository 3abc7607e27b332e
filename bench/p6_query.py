"""P6: a typed group-by through analysis.Query, against DuckDB in the same process on the same files.

Ours: the typed spec goes to analysis over gRPC, analysis pins the version at storage, compiles it, reads storage's Parquet files in
place (DIRECT), and streams the result back as Arrow. The peer runs hand-written SQL on one connection that stays open, over
the same list of files, and takes the result as an Arrow table. Both have two threads and warm caches; their answers are compared.
"""

from __future__ import annotations

import asyncio
import statistics
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from bench import pairs, serving
from millrace.analysis.v1 import analysis_pb2, analysis_pb2_grpc, query_pb2
from millrace.client.append import Appender, AppendOptions
from millrace.client.channel import Connection, call, open_channel
from millrace.engine.files import StorageFiles
from millrace.storage.v1 import storage_pb2, storage_pb2_grpc
from millrace.types.v1 import types_pb2
from millrace.wire.batch import read_batch
from millrace.wire.schema import schema_from_proto, schema_to_proto

TABLE = "namespaces/default/tables/rows"
ROWS, CHUNK = 10_000_000, 250_000
SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), False),
        pa.field("at", pa.timestamp("us", "UTC"), False),
        pa.field("status", pa.string(), False),
        pa.field("code", pa.int32(), False),
        pa.field("delay", pa.float64()),
    ]
)
STATUSES = np.array(["on_time", "late", "cancelled"])
STEP_US = 3_000_000
START_US = 1_700_000_000_000_000


@dataclass(frozen=True, slots=True)
class Case:
    """`spec`: for Query; `sql`: what a person would write for DuckDB, `{files}` being the list."""

    name: str
    spec: Mapping[str, Any]
    sql: str


COUNT = {"name": "n", "aggregate": query_pb2.AGGREGATE_COUNT}
MEAN = {"name": "mean", "aggregate": query_pb2.AGGREGATE_AVG, "column": "delay"}
RANGE = {"start": {"seconds": 1_710_000_000}, "end": {"seconds": 1_710_086_400}}
CASES = (
    Case(
        "3 groups, count and mean",
        {"table": "rows", "dimensions": [{"column": "status"}], "measures": [COUNT, MEAN]},
        "SELECT status, count(*) n, avg(delay) mean FROM read_parquet({files}) GROUP BY 1 ORDER BY 1",
    ),
    Case(
        "200,000 groups, count and mean",
        {"table": "rows", "dimensions": [{"column": "code"}], "measures": [COUNT, MEAN]},
        "SELECT code, count(*) n, avg(delay) mean FROM read_parquet({files}) GROUP BY 1 ORDER BY 1",
    ),
    Case(
        "8,334 hours by status, filled",
        {
            "table": "rows",
            "dimensions": [
                {"name": "hour", "bucket": {"column": "at", "unit": query_pb2.TIME_UNIT_HOUR}},
                {"column": "status"},
            ],
            "measures": [COUNT],
            "fill": query_pb2.FILL_ZERO,
        },
        """SELECT time_bucket(INTERVAL 1 HOUR, "at") "hour", status, count(*) n FROM read_parquet({files}) GROUP BY ALL ORDER BY ALL""",
    ),
    Case(
        "one day of 347, by status",
        {
            "table": "rows",
            "dimensions": [{"column": "status"}],
            "measures": [COUNT, MEAN],
            "time_range": RANGE,
            "time_column": "at",
        },
        """SELECT status, count(*) n, avg(delay) mean FROM read_parquet({files})
        WHERE "at" >= TIMESTAMPTZ '2024-03-09 16:00:00+00' AND "at" < TIMESTAMPTZ '2024-03-10 16:00:00+00' GROUP BY 1 ORDER BY 1""",
    ),
)


LIMITS = """What limits it: a query that does nothing takes 3.6 ms through the service (gRPC, the sandbox's parse, two thread hops, the
explicit end), and one over a table 8 to 11 ms, of which PlanRead and GetTable are 1.1 ms each and run side by side; the rest is
DuckDB opening the files. Beyond that fixed part both sides wait for the same engine; hours are cut by integer arithmetic here and
by `time_bucket` in the peer's SQL, which is where a ratio below 1 comes from."""


def chunk(first: int) -> pa.RecordBatch:
    rng = np.random.default_rng(first)
    ids = np.arange(first, first + CHUNK)
    columns = [
        pa.array(ids),
        pa.array(START_US + ids * STEP_US).cast(SCHEMA.field("at").type),
        pa.array(STATUSES[rng.choice(3, CHUNK, p=[0.7, 0.27, 0.03])]),
        pa.array(rng.integers(0, 200_000, CHUNK, dtype=np.int32)),
        pa.array(rng.normal(10, 30, CHUNK)),
    ]
    return pa.record_batch(columns, schema=SCHEMA)


class Ours:
    """A client of analysis on one channel that stays open."""

    def __init__(self, storage: serving.Process, analysis: serving.Process) -> None:
        self._runner = asyncio.Runner()
        self._storage, self._analysis = storage, analysis
        self._stub: Any = None

    def _connection(self, process: serving.Process) -> Connection:
        return Connection(open_channel(process.target), token=lambda: process.token)

    def fill(self) -> None:
        self._runner.run(self._fill())

    async def _fill(self) -> None:
        connection = self._connection(self._storage)
        stub = storage_pb2_grpc.StorageServiceStub(connection.channel)
        table = storage_pb2.Table(name=TABLE, schema=schema_to_proto(SCHEMA), event_time_column="at")
        request = storage_pb2.CreateTableRequest(request_id=uuid.uuid4().hex, table=table)
        await call(connection, stub.CreateTable, request, answer=storage_pb2.CreateTableResponse)
        async with Appender(connection, AppendOptions(table=TABLE, writer_id="bench")) as writer:
            for first in range(0, ROWS, CHUNK):
                await writer.append(chunk(first))
        await connection.channel.close()

    def files(self) -> tuple[str, ...]:
        """The files of the newest version, once compaction has nothing left to do."""
        return self._runner.run(self._settled())

    async def _settled(self) -> tuple[str, ...]:
        home = self._storage.home
        (home / "spool").mkdir()
        connection = self._connection(self._storage)
        files = StorageFiles(connection, data_root=home / "data", spool=home / "spool")
        before, same_for = -1, 0
        while same_for < 8:
            pinned = await files.pin(TABLE)
            same_for = same_for + 1 if pinned.version == before else 0
            before = pinned.version
            await asyncio.sleep(1)
        await connection.channel.close()
        return pinned.files

    def query(self, spec: Mapping[str, Any]) -> pa.Table:
        return self._runner.run(self._query(spec))

    async def _query(self, spec: Mapping[str, Any]) -> pa.Table:
        connection = self._connection(self._analysis) if self._stub is None else None
        if connection is not None:
            self._stub = analysis_pb2_grpc.AnalysisServiceStub(connection.channel)
        request = analysis_pb2.QueryRequest(spec=spec, encoding=types_pb2.ENCODING_ARROW)
        metadata = (("authorization", f"Bearer {self._analysis.token}"),)
        batches, schema, ended = [], None, False
        async for message in self._stub.Query(request, metadata=metadata):
            match message.WhichOneof("message"):
                case "header":
                    schema = schema_from_proto(message.header.schema)
                case "batch":
                    batches.append(read_batch(message.batch, schema))
                case "end":
                    ended = True
        assert ended
        return pa.Table.from_batches(batches, schema)

    def close(self) -> None:
        self._runner.close()


def same(ours: pa.Table, theirs: pa.Table) -> bool:
    """Equal rows; means may differ in the last bits, and ours also has the hours without rows."""
    if ours.num_rows != theirs.num_rows:
        return False
    for one, two in zip(ours.columns, theirs.columns, strict=True):
        if pa.types.is_floating(one.type):
            if not np.allclose(one.to_numpy(), two.to_numpy(), rtol=1e-9):
                return False
        elif one.to_pylist() != two.to_pylist():
            return False
    return True


def measure(case: Case, ours: Ours, peer: duckdb.DuckDBPyConnection, files: str) -> dict[str, str]:
    sql = case.sql.format(files=files)
    assert same(ours.query(case.spec), peer.sql(sql).to_arrow_table()), f"{case.name}: the answers differ"
    pair = pairs.interleave(lambda: ours.query(case.spec), lambda: peer.sql(sql).to_arrow_table(), rounds=9, warm_up=2)
    return {
        "case": case.name,
        "ours ÷ peer": pairs.spread(pair.ratios),
        "ours, ms": f"{1000 * statistics.median(pair.ours_s):.0f}",
        "peer, ms": f"{1000 * statistics.median(pair.peer_s):.0f}",
        "on top, ms": f"{1000 * statistics.median(a - b for a, b in zip(pair.ours_s, pair.peer_s, strict=True)):.0f}",
    }


def main() -> None:
    with (
        serving.home() as folder,
        serving.service("storage", folder, {"MILLRACE_STORAGE_DIRECT_FILES": "true"}) as storage,
        serving.service("analysis", folder, {"MILLRACE_STORAGE_TARGET": storage.target}) as analysis,
    ):
        ours = Ours(storage, analysis)
        ours.fill()
        peer = duckdb.connect(config={"threads": 2})
        peer.execute("SET TimeZone = 'UTC'")
        paths = ours.files()
        files = "[" + ", ".join(f"'{path}'" for path in paths) + "]"
        rows = [measure(case, ours, peer, files) for case in CASES]
        peer.close()
        ours.close()
    intro = __doc__.split(chr(10), 2)[2].strip()
    where = f"{pairs.machine(['duckdb', 'pyarrow', 'grpcio'])}; {ROWS:,} rows in {len(paths)} files"
    pairs.write_section("P6 query", f"{intro}\n\n{where}\n\n{pairs.table(rows)}\n\n{LIMITS}\n")


if __name__ == "__main__":
    main()
