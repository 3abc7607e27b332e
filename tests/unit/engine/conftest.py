"""Plain Parquet files as pinned tables: no storage needed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from millrace.engine.names import TableRef
from millrace.engine.pinned import Limits, PinnedTable
from millrace.engine.run import Engine

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("ts", pa.timestamp("us", tz="UTC")),
        pa.field("kind", pa.string()),
        pa.field("value", pa.float64()),
    ]
)
START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)

Pin = Callable[..., PinnedTable]


@pytest.fixture
def pin(tmp_path: Path) -> Pin:
    """Writes tables as files of one version of `name`."""

    def write(*tables: pa.Table, name: str = "t", version: int = 1, schema: pa.Schema = SCHEMA) -> PinnedTable:
        paths = []
        for index, table in enumerate(tables):
            path = tmp_path / f"{name}-{version}-{index}.parquet"
            pq.write_table(table, path)
            paths.append(str(path))
        return PinnedTable(f"namespaces/default/tables/{name}", "uid-" + name, version, schema, tuple(paths))

    return write


def rows(count: int = 10, first: int = 0) -> pa.Table:
    ids = list(range(first, first + count))
    columns = {
        "id": ids,
        "ts": [START + dt.timedelta(minutes=i) for i in ids],
        "kind": ["ab"[i % 2] for i in ids],
        "value": [i / 2 for i in ids],
    }
    return pa.table(columns, schema=SCHEMA)


def ref(name: str, schema: str = "") -> TableRef:
    return TableRef(schema, name)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    spill = tmp_path / "spill"
    spill.mkdir()
    made = Engine(Limits(memory_mb=200, spill_mb=50, pool_size=3, max_open=4), str(spill))
    yield made
    made.close()
