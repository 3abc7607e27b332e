"""Tables of ours opened by other tools without Millrace, on a disk and on S3, and tables of theirs opened as ours."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from millrace import errors
from svc_storage.adapters.delta import recovery
from svc_storage.adapters.delta.place import LocalPlace, Place
from svc_storage.adapters.s3.place import S3Place
from svc_storage.domain.versions import LogView
from svc_storage.ports import TableFiles
from tests.contract.storage.backends import BACKENDS, Rig, incoming

FOREIGN = pa.table(
    {
        "id": pa.array([1, 2, 3], pa.int64()),
        "at": pa.array([1_000_000, None, 3_000_000], pa.timestamp("us", "UTC")),
        "name": ["a", None, "ü"],
        "day": pa.array([dt.date(2024, 2, 29), None, None], pa.date32()),
        "parts": pa.array([[1.5], [], None], pa.list_(pa.float64())),
    }
)


@dataclass(frozen=True)
class Somewhere:
    """A table's address, as every Delta reader takes it, and the same as ours."""

    url: str
    options: Mapping[str, str]
    place: Place
    files: TableFiles


@pytest.fixture(params=["local", "s3"])
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    pool = ThreadPoolExecutor(4)
    async with BACKENDS[request.param](tmp_path, pool) as backend:
        built = Rig(tmp_path, backend, pool)
        yield built
        await built.close()


def at(rig: Rig, uid: str) -> Somewhere:
    log, files = rig.backend.open(uid)
    place: Place = log._place
    if isinstance(place, S3Place):
        objects = place._objects
        options = dict(objects.storage_options(objects.keys()))
        del options["max_retries"]  # ours alone; polars wants a number there
        return Somewhere(objects.url, options, place, files)
    return Somewhere(str(rig.folder / "tables" / uid), {}, place, files)


async def filled(rig: Rig) -> Somewhere:
    """Nine rows in three commits, a compaction and a checkpoint."""
    table = await rig.create()
    stream = await rig.open()
    for number in range(3):
        await stream.append(incoming(number * 3, 3))
        await stream.settle()
    await stream.finish()
    await table.committer.turn(lambda: table.log.checkpoint(table.versions.head, table.versions.removed_us))
    return at(rig, table.row.uid)


def by_delta_rs(found: Somewhere) -> list[int]:
    return DeltaTable(found.url, storage_options=dict(found.options)).to_pyarrow_table().column("id").to_pylist()


def by_polars(found: Somewhere) -> list[int]:
    return pl.scan_delta(found.url, storage_options=dict(found.options) or None).collect()["id"].to_list()


def by_duckdb(found: Somewhere) -> list[int]:
    """Its own reader is an extension to download; over the dataset that delta-rs gives it needs none."""
    orders = DeltaTable(found.url, storage_options=dict(found.options)).to_pyarrow_dataset()
    with duckdb.connect() as connection:
        connection.register("orders", orders)
        return [row[0] for row in connection.sql("SELECT id FROM orders WHERE price >= 0").fetchall()]


@pytest.mark.parametrize("reader", [by_delta_rs, by_polars, by_duckdb])
async def test_our_tables_are_read_without_us(rig: Rig, reader: Callable[[Somewhere], list[int]]) -> None:
    found = await filled(rig)
    assert sorted(reader(found)) == list(range(9))


async def test_a_version_and_a_predicate_mean_the_same_to_others(rig: Rig) -> None:
    found = await filled(rig)
    old = DeltaTable(found.url, version=3, storage_options=dict(found.options))
    assert sorted(old.to_pyarrow_table().column("id").to_pylist()) == list(range(6))
    scan = pl.scan_delta(found.url, storage_options=dict(found.options) or None).filter(pl.col("id") > 6)
    assert sorted(scan.collect()["id"].to_list()) == [7, 8]


def write_by_polars(found: Somewhere) -> None:
    frame = pl.from_arrow(FOREIGN)
    assert isinstance(frame, pl.DataFrame)
    options = dict(found.options) or None
    frame.write_delta(found.url, storage_options=options)
    frame.with_columns(pl.col("id") + 10).write_delta(found.url, mode="append", storage_options=options)


def write_by_delta_rs(found: Somewhere) -> None:
    options = dict(found.options) or None
    write_deltalake(found.url, FOREIGN, storage_options=options)
    write_deltalake(
        found.url, FOREIGN.set_column(0, "id", pa.array([11, 12, 13])), mode="append", storage_options=options
    )
    DeltaTable(found.url, storage_options=options).create_checkpoint()


@pytest.mark.parametrize("write", [write_by_polars, write_by_delta_rs])
def test_their_tables_are_read_by_us(rig: Rig, write: Callable[[Somewhere], None]) -> None:
    found = at(rig, "foreign")
    write(found)
    recovery.settle(found.place)
    head = LogView(recovery.read(found.place)).head
    assert head.version == 1
    assert head.schema.names == FOREIGN.schema.names
    batches = [batch for file in head.files.values() for _, batch in found.files.batches(file, head.schema)]
    rows = pa.Table.from_batches(batches).sort_by("id")
    assert rows.column("id").to_pylist() == [1, 2, 3, 11, 12, 13]
    assert rows.slice(0, 3).drop_columns("id").to_pylist() == FOREIGN.drop_columns("id").to_pylist()


FEATURES = {"minReaderVersion": 3, "minWriterVersion": 7}
UNREADABLE = [
    ("deletionVectors", {"protocol": {**FEATURES, "readerFeatures": ["deletionVectors"], "writerFeatures": []}}),
    (
        "typeWidening",
        {"protocol": {**FEATURES, "readerFeatures": ["timestampNtz", "typeWidening"], "writerFeatures": []}},
    ),
    ("columnMapping", {"metaData": {"configuration": {"delta.columnMapping.mode": "name"}}}),
    ("deletionVectors", {"add": {"path": "x.parquet", "size": 1, "deletionVector": {"storageType": "u"}}}),
]


@pytest.mark.parametrize(("name", "action"), UNREADABLE)
def test_what_would_be_read_wrongly_is_refused_by_name(tmp_path: Path, name: str, action: dict[str, object]) -> None:
    write_deltalake(tmp_path / "t", FOREIGN)
    later = tmp_path / "t" / "_delta_log" / f"{1:020d}.json"
    later.write_text(json.dumps(action) + "\n")
    with pytest.raises(errors.BackendCapability, match=name):
        recovery.read(LocalPlace(tmp_path / "t"))


def test_a_partitioned_table_is_refused_by_name(tmp_path: Path) -> None:
    """Its files lack the columns it is partitioned by."""
    write_deltalake(tmp_path / "t", FOREIGN, partition_by=["day"])
    with pytest.raises(errors.BackendCapability, match="partitionColumns"):
        recovery.read(LocalPlace(tmp_path / "t"))
