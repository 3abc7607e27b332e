"""Dashboards and facts in memory; the board sees each change."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

from millrace.errors import DashboardNotFound, EtagMismatch, RequestIdReused
from svc_viz.ports import Board, Dashboard, DashboardPage, World


class MemoryCatalog:
    """Implements `Dashboards` and `Observer`."""

    def __init__(self, dashboards: Mapping[str, Dashboard] | None = None, world: World | None = None) -> None:
        self._dashboards = dict(dashboards or {})
        self._requests: dict[str, tuple[Dashboard, Dashboard]] = {}
        self._world = (world or World()).changed(unreachable="")
        self._changed = asyncio.Event()

    def show(self, world: World) -> None:
        """New facts; dashboards stay."""
        self._world = world
        self._changed.set()

    async def put(self, dashboard: Dashboard, *, request_id: str, on_behalf_of: str) -> Dashboard:
        if known := self._requests.get(request_id):
            if known[0] != dashboard:
                raise RequestIdReused(f"request_id {request_id} came before with another dashboard", field="request_id")
            return known[1]
        old = self._dashboards.get(dashboard.name)
        if dashboard.etag and (old is None or old.etag != dashboard.etag):
            raise EtagMismatch(
                f"{dashboard.name} has changed", field="dashboard.etag", hint="get it, change it, put it again"
            )
        same = old is not None and old.spec == dashboard.spec
        stored = replace(
            dashboard,
            uid=old.uid if old else uuid.uuid4().hex,
            etag=old.etag if old and same else uuid.uuid4().hex,
            owner=old.owner if old else on_behalf_of,
            update_time=old.update_time if old and same else datetime.now(UTC),
        )
        self._dashboards[dashboard.name] = stored
        self._requests[request_id] = (dashboard, stored)
        self._changed.set()
        return stored

    async def get(self, name: str) -> Dashboard:
        if (found := self._dashboards.get(name)) is None:
            raise DashboardNotFound(f"there is no dashboard {name}", field="name")
        return found

    async def list(self, namespace: str, *, page_size: int, page_token: str) -> DashboardPage:
        names = sorted(
            name for name, one in self._dashboards.items() if one.namespace == namespace and name > page_token
        )
        chosen = names[:page_size]
        return DashboardPage(
            tuple(self._dashboards[name] for name in chosen), chosen[-1] if len(names) > page_size else ""
        )

    async def delete(self, name: str, *, request_id: str, etag: str) -> None:
        found = await self.get(name)
        if etag and found.etag != etag:
            raise EtagMismatch(f"{name} has changed", field="etag")
        del self._dashboards[name]
        self._changed.set()

    async def run(self, board: Board) -> None:
        while True:
            self._changed.clear()
            board.publish(self._world.changed(dashboards=dict(self._dashboards)))
            await self._changed.wait()
