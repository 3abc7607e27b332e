"""Tables in this process: millrace.engine's memory files behind this service's port."""

from __future__ import annotations

from collections.abc import AsyncIterator

from millrace.engine.memory import MemoryFiles
from millrace.errors import TableNotFound
from svc_analysis.ports import Change, Facts, Pinned


class MemoryTables:
    """`svc_analysis.ports.Tables`. `files`: where tests make tables and append to them. `watches`: open ones per table, for tests."""

    def __init__(self, files: MemoryFiles) -> None:
        self.files = files
        self.watches: dict[str, int] = {}

    async def facts(self, name: str) -> Facts:
        found = await self.files.describe(name)
        return Facts(name, found.uid, found.version, found.event_time_column, found.event_time_high_us)

    async def pin(
        self, name: str, *, version: int | None = None, uid: str = "", storage_columns: bool = False
    ) -> Pinned:
        return await self.files.pin(name, version=version, uid=uid, storage_columns=storage_columns)

    async def watch(self, name: str) -> AsyncIterator[Change]:
        self.watches[name] = self.watches.get(name, 0) + 1
        try:
            info = await self.files.describe(name)
            yield Change(info.uid, info.version, 0, event_time_high_us=info.event_time_high_us)
            while True:
                found = await self.files.wait_for_change(name, (info.uid, info.version))
                if found is None:
                    raise TableNotFound(f"`{name}` was deleted", field="table")
                landed = found.version - info.version if found.uid == info.uid else 1
                info = found
                yield Change(info.uid, info.version, landed, event_time_high_us=info.event_time_high_us)
        finally:
            self.watches[name] -= 1
