"""Where dashboards are kept: memory and storage keep the same promises, and an observer pins them to the board."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from millrace.client.channel import Connection
from millrace.client.session import Client
from millrace.errors import DashboardNotFound, EtagMismatch, RequestIdReused
from millrace.server.runtime import ServiceSpec
from millrace.server.testing import running
from svc_storage.__main__ import compose
from svc_storage.config import Settings
from svc_viz.adapters.memory.catalog import MemoryCatalog
from svc_viz.adapters.storage.dashboards import StoredDashboards
from svc_viz.adapters.storage.observer import StorageObserver
from svc_viz.domain.board import NoticeBoard
from svc_viz.ports import Dashboard, Dashboards, Observer
from tests.unit.viz.conftest import DASHBOARD, ROWS, SPEC

Backend = tuple[Dashboards, Observer, Client | None]


@pytest.fixture(params=["memory", "storage"])
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    if request.param == "memory":
        catalog = MemoryCatalog()
        yield catalog, catalog, None
        return
    spec = ServiceSpec(name="storage", settings=Settings.from_env, compose=compose)
    env = {"MILLRACE_STORAGE_DATA_DIR": str(tmp_path), "MILLRACE_STORAGE_BACKEND": "memory"}
    async with (
        running(spec, env, home=tmp_path) as served,
        Client.find(token="viz-token", storage=served.target) as client,
    ):
        connection: Connection = client.connection("storage")
        yield StoredDashboards(connection), StorageObserver(connection), client


async def put(store: Dashboards, dashboard: Dashboard, request_id: str = "") -> Dashboard:
    return await store.put(dashboard, request_id=request_id or uuid.uuid4().hex, on_behalf_of="ann")


async def test_put_get_list_delete(backend: Backend) -> None:
    store = backend[0]
    stored = await put(store, DASHBOARD)
    assert (stored.owner, stored.spec) == ("ann", SPEC)
    assert await store.get(DASHBOARD.name) == stored
    changed = await put(store, replace(DASHBOARD, spec=replace(SPEC, title="Other"), etag=stored.etag))
    assert changed.etag != stored.etag
    with pytest.raises(EtagMismatch):
        await put(store, replace(DASHBOARD, etag=stored.etag))
    await put(store, replace(DASHBOARD, name="namespaces/default/dashboards/b"))
    first = await store.list("default", page_size=1, page_token="")
    second = await store.list("default", page_size=1, page_token=first.next_page_token)
    assert [one.slug for one in (*first.dashboards, *second.dashboards)] == ["b", "flights"]
    assert second.next_page_token == ""
    await store.delete(DASHBOARD.name, request_id="d", etag="")
    with pytest.raises(DashboardNotFound):
        await store.get(DASHBOARD.name)


async def test_a_request_id_is_for_one_request(backend: Backend) -> None:
    store = backend[0]
    stored = await put(store, DASHBOARD, "one")
    assert await put(store, DASHBOARD, "one") == stored
    with pytest.raises(RequestIdReused):
        await put(store, replace(DASHBOARD, spec=replace(SPEC, title="Other")), "one")


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def test_the_board_follows(backend: Backend) -> None:
    store, observer, client = backend
    board = NoticeBoard()
    assert board.world.unreachable
    watching = asyncio.create_task(observer.run(board))
    await until(lambda: not board.world.unreachable)
    await put(store, DASHBOARD)
    await until(lambda: board.dashboard("flights"))
    if client is not None:
        await client.create_table("flights", ROWS.schema, event_time_column="at")
        await client.table("flights").append(ROWS)
        name = "namespaces/default/tables/flights"
        await until(lambda: name in board.world.tables and board.world.tables[name].row_count == ROWS.num_rows)
        facts = board.world.tables[name]
        assert facts.columns["delay"] == "float"
        assert facts.event_time_column == "at"
        await until(lambda: board.world.tables[name].event_time_high is not None)
    await store.delete(DASHBOARD.name, request_id="d", etag="")
    await until(lambda: board.dashboard("flights") is None)
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
