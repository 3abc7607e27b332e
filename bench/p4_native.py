"""P4: rows into a CQL table, Millrace's derived table against DSBulk 1.10, the same CSV file, the same node, in turn.

Ours is what fills a table's derived table: the file read by pyarrow, then unlogged batches of up to 100 rows of one partition, serialised
a column at a time. DSBulk runs with its defaults, into a table keyed by `id` and into one laid out as ours (the partition's number is a
column of the file, so that it can batch by partition too); its start (a load of one row) is measured and taken off.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from bench import dsbulk, pairs
from millrace.laptop.servers.cassandra import Cassandra
from svc_storage.adapters.cassandra.cells import buckets_of
from svc_storage.adapters.cassandra.key_table import CassandraKeyTable
from svc_storage.adapters.cassandra.session import Place, Session
from svc_storage.adapters.cassandra.store import open_session
from svc_storage.domain.reading.keys import hashes

ROWS = int(os.environ.get("BENCH_ROWS", "1000000"))
ROUNDS = 3
SCHEMA = pa.schema(
    [("id", pa.int64()), ("at", pa.int64()), ("price", pa.float64()), ("status", pa.string()), ("quantity", pa.int32())]
)
_TYPES = "id bigint, at bigint, price double, status text, quantity int"


def rows() -> pa.Table:
    ids = np.random.default_rng(4).permutation(ROWS)
    return pa.table(
        {
            "id": ids,
            "at": ids * 1_000,
            "price": ids / 7.0,
            "status": [f"status {value % 1_000}" for value in ids.tolist()],
            "quantity": pa.array(ids % 100, pa.int32()),
        },
        schema=SCHEMA,
    )


class Loads:
    """Three ways from a file into a table that is made for it. Each returns its seconds."""

    def __init__(self, folder: Path, session: Session, points: tuple[str, ...], pool: ThreadPoolExecutor) -> None:
        self.folder, self.session, self.points = folder, session, points
        self.key_table = CassandraKeyTable(session, "p4", pool)
        self.loop = asyncio.new_event_loop()

    def write(self, table: pa.Table) -> None:
        state = self.loop.run_until_complete(self.key_table.begin(SCHEMA, ["id"], size_bytes=table.nbytes))
        numbers, _ = hashes([table.column("id").combine_chunks()])
        buckets = pa.array(buckets_of(numbers, state.buckets), pa.int32())
        csv.write_csv(table, self.folder / "rows.csv")
        csv.write_csv(table.append_column("bucket", buckets), self.folder / "laid.csv")
        csv.write_csv(table.slice(0, 1), self.folder / "one.csv")

    def ours(self) -> float:
        state = self.loop.run_until_complete(self.key_table.begin(SCHEMA, ["id"], size_bytes=ROWS * 40))
        began = time.perf_counter()
        types = {field.name: field.type for field in SCHEMA}
        options = csv.ConvertOptions(column_types=types)

        def batches() -> Iterator[tuple[pa.RecordBatch, pa.Array]]:
            with csv.open_csv(self.folder / "rows.csv", convert_options=options) as reader:
                for batch in reader:
                    yield batch, pa.repeat(pa.scalar(1, pa.int64()), batch.num_rows)

        written = self.loop.run_until_complete(self.key_table.put(state, 1, batches()))
        took = time.perf_counter() - began
        assert written == ROWS
        self._drop(state.name, took)
        return took

    def dsbulk(self, name: str, file: str, definition: str) -> float:
        table = f"{name}_{time.time_ns()}"
        self.session.define(f"CREATE TABLE {self.session.place.keyspace}.{table} ({definition})")
        began = time.perf_counter()
        dsbulk.load(self.folder / file, self.session.place.keyspace, table, self.points, self.folder / "logs")
        took = time.perf_counter() - began
        self._drop(table, took)
        return took

    def _drop(self, table: str, took: float) -> None:
        print(f"  {table.partition('_')[0]}: {took:.1f} s, {ROWS / took:,.0f} rows/s", file=sys.stderr)
        self.session.define(f"DROP TABLE {self.session.place.keyspace}.{table}")


def measure(loads: Loads) -> list[dict[str, str]]:
    flat, laid = f"{_TYPES}, PRIMARY KEY (id)", f"bucket int, {_TYPES}, PRIMARY KEY (bucket, id)"
    start_s = min(loads.dsbulk("start", "one.csv", flat) for _ in range(2))
    ways: dict[str, Callable[[], float]] = {
        "Millrace": loads.ours,
        "DSBulk, keyed by id": lambda: loads.dsbulk("flat", "rows.csv", flat) - start_s,
        "DSBulk, laid out as ours": lambda: loads.dsbulk("laid", "laid.csv", laid) - start_s,
    }
    took: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(ROUNDS):
        for name in list(ways) if number % 2 == 0 else reversed(list(ways)):
            took[name].append(ways[name]())
    ours = took["Millrace"]
    return [
        {
            "way": name,
            "s": pairs.spread(found, 1),
            "rows/s": f"{ROWS / statistics.median(found):,.0f}",
            "Millrace is faster by": pairs.spread([one / mine for one, mine in zip(found, ours, strict=True)]),
        }
        for name, found in took.items()
    ]


def main() -> None:
    table = rows()
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(2) as pool:
        folder = Path(temporary)
        cluster = Cassandra.start(folder / "cassandra", first=91)
        try:
            points = tuple(cluster.contact_points)
            session, _ = open_session(Place(contact_points=points, keyspace="p4"), "bench")
            loads = Loads(folder, session, points, pool)
            loads.write(table)
            lines = measure(loads)
            session.cluster.shutdown()
        finally:
            cluster.kill()
    assert __doc__
    size = pc.sum(pc.binary_length(table.column("status"))).as_py() / ROWS
    parts = [
        __doc__.split("\n", 1)[1].strip(),
        f"{ROWS:,} rows of 5 columns (a text of {size:.0f} bytes).",
        pairs.machine(["cassandra-driver", "pyarrow"]),
        pairs.table(lines),
    ]
    body = "\n\n".join(parts)
    pairs.write_section("P4, a CQL table", body)


if __name__ == "__main__":
    main()
