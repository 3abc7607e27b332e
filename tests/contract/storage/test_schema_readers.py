"""Tables whose columns changed, opened by delta-rs, polars and DuckDB without Millrace, old and new rows alike."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import polars
import pyarrow as pa
import pytest
from deltalake import DeltaTable, QueryBuilder

from millrace.engine.pinned import PinnedTable
from millrace.engine.views import select_rows
from svc_storage.ports import CommitKind
from tests.contract.storage.backends import Rig
from tests.contract.storage.test_recovery import local, log_file
from tests.contract.storage.test_schema import COLUMNS, NOTE, WIDER, batch, change, send, table_of

__all__ = ["local"]

MIXED = [
    {"id": 0, "ratio": 0.0, "money": Decimal("0.0000"), "tags": [0, None], "note": None},
    {"id": 1, "ratio": 0.5, "money": Decimal("0.2500"), "tags": [1, None], "note": None},
    {"id": 2, "ratio": 1.0, "money": Decimal("0.5000"), "tags": [2, None], "note": "n"},
    {"id": 2**40, "ratio": 2.0**39, "money": Decimal("194.0000"), "tags": [2**40, None], "note": None},
]


async def evolved(rig: Rig) -> Path:
    table = await table_of(rig)
    stream = await rig.open()
    await send(stream, batch(0, 2))
    await stream.change_schema(change(additions=(NOTE,)))
    await send(stream, batch(2, 1, pa.schema([*COLUMNS, NOTE]), note="n"))
    await stream.change_schema(change(2, widenings=WIDER, relaxations=("id",)))
    await send(stream, batch(2**40, 1, pa.schema([pa.field(name, kind) for name, kind in WIDER.items()])))
    await stream.finish()
    return rig.folder / "tables" / table.row.uid


def by_delta_rs(folder: Path) -> list[dict[str, Any]]:
    return DeltaTable(folder).to_pyarrow_table().to_pylist()


def by_datafusion(folder: Path) -> list[dict[str, Any]]:
    found = QueryBuilder().register("t", DeltaTable(folder)).execute("select * from t").read_all()
    return pa.table(found).to_pylist()


def by_polars(folder: Path) -> list[dict[str, Any]]:
    return polars.scan_delta(str(folder)).collect().to_dicts()


def by_duckdb(folder: Path) -> list[dict[str, Any]]:
    files = ", ".join(f"'{folder / path}'" for path in _files(folder))
    return duckdb.sql(f"select * from read_parquet([{files}], union_by_name=true)").to_arrow_table().to_pylist()


def by_our_views(folder: Path) -> list[dict[str, Any]]:
    schema = pa.schema([pa.field(name, kind) for name, kind in WIDER.items()] + [NOTE])
    files = tuple(str(folder / path) for path in _files(folder))
    pinned = PinnedTable(name="t", uid="u", version=1, schema=schema, files=files)
    return duckdb.sql(select_rows(pinned)).to_arrow_table().to_pylist()


def _files(folder: Path) -> list[str]:
    return [Path(uri).name for uri in DeltaTable(folder).file_uris()]


@pytest.mark.parametrize("reader", [by_delta_rs, by_datafusion, by_polars, by_duckdb, by_our_views])
async def test_old_and_new_rows_are_right_for_everyone(local: Rig, reader: Any) -> None:
    folder = await evolved(local)
    found = sorted(reader(folder), key=lambda row: row["id"])
    assert [{name: row[name] for name in MIXED[0]} for row in found] == MIXED


async def test_our_views_read_narrow_files_too(local: Rig, tmp_path: Path) -> None:
    """Where a backend keeps the narrower files, and of versions pinned across a change."""
    folder = await evolved(local)
    first = DeltaTable(folder, version=2)
    schema = pa.schema([pa.field(name, kind) for name, kind in WIDER.items()] + [NOTE])
    files = tuple(str(folder / Path(uri).name) for uri in [*first.file_uris(), *DeltaTable(folder).file_uris()])
    pinned = PinnedTable(name="t", uid="u", version=1, schema=schema, files=files)
    found = duckdb.sql(select_rows(pinned)).to_arrow_table()
    assert found.num_rows == 2 + 4
    assert [found.schema.field(name).type for name in WIDER][:3] == list(WIDER.values())[:3]
    assert sorted(found.column("id").to_pylist()) == [0, 0, 1, 1, 2, 2**40]
    assert found.column("money").to_pylist().count(Decimal("0.2500")) == 2


async def test_each_step_is_one_commit_of_its_kind(local: Rig) -> None:
    folder = await evolved(local)
    table = await local.restart()
    commits = table.commits_in(0, table.head)
    assert [one.commit.kind for one in commits] == [
        CommitKind.FENCE, CommitKind.APPEND, CommitKind.SCHEMA, CommitKind.APPEND, CommitKind.SCHEMA, CommitKind.APPEND,
    ]  # fmt: skip
    assert [one.commit.schema_id for one in commits if one.commit.schema is not None] == [2, 3]
    assert log_file(folder, 3).read_text().count('"add"') == 0, "an added column rewrites nothing"
    assert log_file(folder, 5).read_text().count('"remove"') == 2
    assert DeltaTable(folder).metadata().configuration["delta.enableExpiredLogCleanup"] == "false"
    assert DeltaTable(folder).transaction_version("w") == 1 << 40 | 4
