"""What every `ControlStore` promises: all or nothing, durable, to its end."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from millrace.errors import DiskFull, EtagMismatch, RequestIdReused, ResourceExists, StoreUnavailable, TableNotFound
from svc_storage.adapters.sqlite.schema import STEPS
from svc_storage.adapters.sqlite.store import SqliteControl
from svc_storage.domain.control.catalog import TableRows
from svc_storage.domain.control.changes import ResourceChange, RevisionBookmark, follow
from svc_storage.domain.control.resource_names import Selection
from svc_storage.domain.control.resources import Resources, ResourceWish
from svc_storage.ports import Answer, ControlStore, ControlTransaction, LeaseRow, Packed, RequestMark, TableRow
from tests.contract.storage.control_stores import CHOSEN, CONTROL_STORES, HandClock


@pytest.fixture(params=CHOSEN)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ControlStore]:
    store = await CONTROL_STORES[request.param](tmp_path)
    yield store
    await store.close()


def table(name: str = "orders", uid: str = "u1", etag: str = "e1") -> TableRow:
    name = f"namespaces/default/tables/{name}"
    return TableRow(name=name, uid=uid, etag=etag, created_us=1, updated_us=2, owner="ada", body="{}")


def mark(request_id: str, fingerprint: str = "f") -> RequestMark:
    return RequestMark(request_id, "local", fingerprint)


async def test_work_that_fails_leaves_nothing(store: ControlStore) -> None:
    def work(tx: ControlTransaction) -> None:
        tx.put_lease(LeaseRow("a", "me", 3))
        tx.put_table(table())
        tx.put_answer("local", "r", Answer("f", b"x"), now_us=5, since_us=0)
        raise KeyError

    with pytest.raises(KeyError):
        await store.run(work)
    assert await store.run(lambda tx: (tx.lease("a"), tx.table(table().name), tx.answer("local", "r", since_us=0))) == (
        None,
        None,
        None,
    )


async def test_old_answers_and_scans_are_forgotten(store: ControlStore) -> None:
    for now_us in (1, 2, 100):
        await store.run(
            lambda tx, now_us=now_us: (  # type: ignore[misc]
                tx.put_answer("p", f"r{now_us}", Answer("f", b"x"), now_us=now_us, since_us=now_us - 10),
                tx.put_scan(bytes([now_us]), b"s", now_us=now_us, since_us=now_us - 10),
            )
        )
    assert await store.run(lambda tx: [tx.scan(bytes([at])) for at in (1, 2, 100)]) == [None, None, b"s"]
    assert await store.run(lambda tx: [tx.answer("p", f"r{at}", since_us=0) for at in (1, 2)]) == [None, None]
    assert await store.run(lambda tx: tx.answer("p", "r100", since_us=100)) == Answer("f", b"x")
    assert await store.run(lambda tx: tx.answer("p", "r100", since_us=101)) is None
    assert await store.run(lambda tx: tx.answer("other", "r100", since_us=0)) is None


async def test_tables_are_rows_with_answers(store: ControlStore) -> None:
    rows = TableRows(store, HandClock())
    assert await rows.create_table(table(), mark("1")) == table()
    assert await rows.create_table(table(uid="another"), mark("1")) == table()  # the first answer
    with pytest.raises(RequestIdReused):
        await rows.outcome(mark("1", "other"))
    with pytest.raises(ResourceExists):
        await rows.create_table(table(uid="another"), mark("2"))
    changed = await rows.update_table(table(etag="e2"), expected_etag="e1", request=mark("3"))
    assert changed.etag == "e2"
    with pytest.raises(EtagMismatch):
        await rows.update_table(table(etag="e3"), expected_etag="e1", request=mark("4"))
    with pytest.raises(EtagMismatch):
        await rows.delete_table(table().name, expected_etag="e1", request=mark("5"))
    await rows.create_table(table("zebra", "u2"), mark("6"))
    assert [row.uid for row in await rows.list_tables("default", after_name="", limit=9)] == ["u1", "u2"]
    assert [row.uid for row in await rows.list_tables("", after_name=table().name, limit=9)] == ["u2"]
    assert await rows.list_tables("other", after_name="", limit=9) == []
    assert (await rows.delete_table(table().name, expected_etag="", request=mark("7"))).uid == "u1"
    assert (await rows.delete_table(table().name, expected_etag="", request=mark("7"))).uid == "u1"
    with pytest.raises(TableNotFound):
        await rows.delete_table(table().name, expected_etag="", request=mark("8"))
    assert await rows.get_table(table().name) is None


# -- SQLite
async def test_what_was_answered_is_there_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    store = await SqliteControl.open(path)
    await store.run(lambda tx: tx.put_lease(LeaseRow("a", "me", 3, 1, 5_000, 9)))
    await store.close()
    store = await SqliteControl.open(path)
    assert await store.run(lambda tx: tx.lease("a")) == LeaseRow("a", "me", 3, 1, 5_000, 9)
    await store.close()
    with pytest.raises(StoreUnavailable):
        await store.run(lambda tx: tx.revision())


async def test_begun_work_is_finished_though_its_caller_is_gone(tmp_path: Path) -> None:
    store = await SqliteControl.open(tmp_path / "catalog.sqlite")
    begun, go_on = threading.Event(), threading.Event()

    def work(tx: ControlTransaction) -> None:
        begun.set()
        go_on.wait(5)
        tx.put_lease(LeaseRow("a", "me", 1))

    caller = asyncio.ensure_future(store.run(work))
    await asyncio.to_thread(begun.wait, 5)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    go_on.set()
    assert await store.run(lambda tx: tx.lease("a")) is not None
    await store.close()


async def test_a_file_of_a_newer_release_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    await (await SqliteControl.open(path)).close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {len(STEPS) + 1}")
    connection.close()
    with pytest.raises(StoreUnavailable, match="form"):
        await SqliteControl.open(path)


async def test_a_file_that_is_no_catalog_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(StoreUnavailable):
        await SqliteControl.open(path)


async def test_a_full_disk_is_said_and_changes_nothing(tmp_path: Path) -> None:
    store = await SqliteControl.open(tmp_path / "catalog.sqlite")
    store._connection.execute("PRAGMA max_page_count = 40")
    with pytest.raises(DiskFull):
        await store.run(lambda tx: tx.put_scan(b"f", b"x" * 1_000_000, now_us=1, since_us=0))
    assert await store.run(lambda tx: tx.scan(b"f")) is None
    await store.run(lambda tx: tx.put_lease(LeaseRow("a", "me", 1)))
    await store.close()


async def test_a_watcher_hears_of_a_change_whose_answer_was_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await SqliteControl.open(tmp_path / "catalog.sqlite")
    resources = Resources(store, HandClock())
    wish = ResourceWish(name="namespaces/default/sources/a", spec=Packed("t", b""))
    await resources.put(wish, mark("1"))
    news = follow(resources, [Selection("sources")], after=1, initial=False, heartbeat_s=0.05)
    assert isinstance(await anext(news), RevisionBookmark)

    def lose(name: str) -> None:
        if name == "storage.after_catalog_commit":
            raise RuntimeError("applied, then reported as failed")

    with monkeypatch.context() as patched:
        patched.setattr("svc_storage.adapters.sqlite.store.failpoint", lose)
        with pytest.raises(RuntimeError):
            await resources.put(ResourceWish(name=wish.name, spec=wish.spec, overwrite=True), mark("2"))
    async with asyncio.timeout(5):
        while not isinstance(told := await anext(news), ResourceChange):
            pass
    assert told.resource.generation == 2
    again, _ = await resources.put(ResourceWish(name=wish.name, spec=wish.spec, overwrite=True), mark("2"))
    assert again == told.resource
    await news.aclose()
    await store.close()
