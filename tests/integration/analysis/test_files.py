"""Pinned tables from a real storage: its own files, or rows streamed where those may not be opened."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from millrace.engine.files import Files, StorageFiles, inside, pin_all
from millrace.engine.names import TableRef
from millrace.engine.pinned import Limits, Statement
from millrace.engine.run import Engine
from millrace.errors import FieldInvalid, TableNotFound, TableRecreated, VersionInFuture
from tests.integration.analysis.conftest import Store

NAME = "namespaces/default/tables/t"
SCHEMA = pa.schema([pa.field("id", pa.int64(), nullable=False), pa.field("at", pa.timestamp("us", "UTC"))])


def rows(first: int, count: int) -> pa.Table:
    ids = range(first, first + count)
    return pa.table({"id": list(ids), "at": [i * 1_000_000 for i in ids]}, schema=SCHEMA)


@pytest.fixture(params=["direct", "stream"])
def files(request: pytest.FixtureRequest, store: Store, tmp_path: Path) -> Files:
    (tmp_path / "spool").mkdir()
    root = store.data if request.param == "direct" else None
    return StorageFiles(store.connection, data_root=root, spool=tmp_path / "spool")


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(Limits(memory_mb=200), str(tmp_path))


async def count(engine: Engine, files: Files, sql: str, **versions: int) -> list[dict[str, object]]:
    full = {f"namespaces/default/tables/{name}": version for name, version in versions.items()}
    tables = await pin_all(
        files, {TableRef("", "t")} if "$all" not in sql else {TableRef("", "t$all")}, "default", full
    )
    return (await engine.table(Statement(sql=sql), tables)).to_pylist()


async def test_a_version_is_read_whole_and_stays_as_it_was(store: Store, files: Files, engine: Engine) -> None:
    await store.create(NAME, SCHEMA, "at")
    assert await count(engine, files, "select count(*) n from t") == [{"n": 0}]
    first = await store.append(NAME, rows(0, 1000))
    second = await store.append(NAME, rows(1000, 500))
    question = "select count(*) n, sum(id) s from t"
    assert await count(engine, files, question) == [{"n": 1500, "s": sum(range(1500))}]
    assert await count(engine, files, question, t=first) == [{"n": 1000, "s": sum(range(1000))}]
    assert await count(engine, files, question, t=second) == [{"n": 1500, "s": sum(range(1500))}]
    with pytest.raises(VersionInFuture):
        await count(engine, files, question, t=second + 100)
    with pytest.raises(FieldInvalid):
        await count(engine, files, question, other=1)


async def test_only_what_was_added(store: Store, files: Files, engine: Engine) -> None:
    await store.create(NAME, SCHEMA)
    first = await store.append(NAME, rows(0, 10))
    await store.append(NAME, rows(10, 5))
    added = await files.pin(NAME, after_version=first)
    found = await engine.table(Statement(sql="select min(id) a, count(*) n from t"), {TableRef("", "t"): added})
    assert found.to_pylist() == [{"a": 10, "n": 5}]


async def test_storages_columns_are_there_when_named(store: Store, files: Files, engine: Engine) -> None:
    await store.create(NAME, SCHEMA)
    await store.append(NAME, rows(0, 10))
    assert await count(engine, files, "select count(_ingested_at) n from t$all") == [{"n": 10}]
    assert (await files.pin(NAME)).schema.names == ["id", "at"]


async def test_facts_and_refusals(store: Store, files: Files) -> None:
    await store.create(NAME, SCHEMA, "at")
    await store.append(NAME, rows(0, 10))
    info = await files.describe(NAME)
    assert (info.event_time_column, info.event_time_high_us) == ("at", 9_000_000)
    with pytest.raises(TableNotFound):
        await files.pin("namespaces/default/tables/nope")
    with pytest.raises(TableRecreated):
        await files.pin(NAME, uid="another")


async def test_dead_letters_are_a_table(store: Store, files: Files, engine: Engine) -> None:
    await store.create(NAME, SCHEMA)
    pinned = await files.pin(NAME + "$dead_letters")
    ref = TableRef("", "t$dead_letters")
    found = await engine.table(Statement(sql="select count(reason) n from t$dead_letters"), {ref: pinned})
    assert found.to_pylist() == [{"n": 0}]


async def test_direct_files_lie_below_the_data_root(store: Store, tmp_path: Path) -> None:
    await store.create(NAME, SCHEMA)
    await store.append(NAME, rows(0, 10))
    (tmp_path / "spool").mkdir()
    direct = await StorageFiles(store.connection, data_root=store.data, spool=tmp_path / "spool").pin(NAME)
    assert all(Path(path).is_relative_to(store.data.resolve()) for path in direct.files)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "store-id").write_text((store.data / "store-id").read_text())
    streamed = await StorageFiles(store.connection, data_root=elsewhere, spool=tmp_path / "spool").pin(NAME)
    assert all(Path(path).parent == tmp_path / "spool" for path in streamed.files)


def test_a_path_that_leaves_the_root_is_not_opened(tmp_path: Path) -> None:
    root, outside = tmp_path / "data", tmp_path / "secret.parquet"
    root.mkdir()
    outside.write_text("x")
    (root / "link.parquet").symlink_to(outside)
    (root / "real.parquet").write_text("x")
    assert inside((root / "real.parquet").as_uri(), root) == str(root / "real.parquet")
    for url in (
        outside.as_uri(),
        (root / "link.parquet").as_uri(),
        f"file://{root}/../secret.parquet",
        "https://x/y",
        f"file://host{root}/real.parquet",
    ):
        assert inside(url, root) is None
