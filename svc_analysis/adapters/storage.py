"""Storage's tables behind this service's port: pinned by millrace.engine, followed by the client's watch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace

from millrace.client.channel import Connection
from millrace.client.watch import watch_table
from millrace.engine.files import Files
from millrace.errors import TableNotFound, TableRecreated, VersionExpired
from millrace.storage.v1 import storage_pb2
from millrace.wire.clock import micros_of
from svc_analysis.ports import Change, Facts, Pinned

_TRIES = 1_000_000
"""A subscription outlives any outage of storage: it shows what it has and goes on when storage is back."""

_GRACE_S = 5.0


class StorageTables:
    """`svc_analysis.ports.Tables`."""

    def __init__(self, files: Files, connection: Connection) -> None:
        self._files, self._connection = files, connection

    async def facts(self, name: str) -> Facts:
        found = await self._files.describe(name)
        return Facts(
            name=found.name,
            uid=found.uid,
            version=found.version,
            event_time_column=found.event_time_column,
            event_time_high_us=found.event_time_high_us,
            commit_time_us=found.commit_time_us,
        )

    async def pin(
        self, name: str, *, version: int | None = None, uid: str = "", storage_columns: bool = False
    ) -> Pinned:
        return await self._files.pin(name, version=version, uid=uid, storage_columns=storage_columns)

    async def watch(self, name: str) -> AsyncIterator[Change]:
        while True:
            facts = await self.facts(name)
            high = facts.event_time_high_us
            yield Change(facts.uid, facts.version, 0, facts.commit_time_us, high)
            request = storage_pb2.WatchTableRequest(
                table=name, table_uid=facts.uid, after_version=facts.version, data_changes_only=True, coalesce=True
            )
            try:
                async with aclosing(self._changes(request)) as changes:  # type: ignore[type-var]
                    async for change in changes:
                        known = [us for us in (high, change.event_time_high_us) if us is not None]
                        high = max(known, default=None)
                        yield replace(change, event_time_high_us=high)
            except (TableRecreated, VersionExpired):
                continue  # look at it anew: another table of that name, or too far behind

    async def _made_again(self, name: str) -> None:
        """Returns once there is a table of that name again. Raises TableNotFound when there is none for a while: a full refresh deletes and
        makes its output, and who watches it should see the new one."""
        ends = time.monotonic() + _GRACE_S
        while True:
            try:
                await self.facts(name)
                return
            except TableNotFound:
                if time.monotonic() >= ends:
                    raise
            await asyncio.sleep(0.1)

    async def _changes(self, request: storage_pb2.WatchTableRequest) -> AsyncIterator[Change]:
        async with aclosing(watch_table(self._connection, request, tries=_TRIES)) as events:
            async for event in events:
                if isinstance(event, storage_pb2.TableDeleted):
                    await self._made_again(request.table)
                    return
                if isinstance(event, storage_pb2.TableVersion):
                    landed = max(1, event.number - event.first + 1)
                    commit_us = micros_of(event.commit_time, "commit_time")
                    highs = (position.event_time_high for position in event.positions.values())
                    high = max((micros_of(h, "positions") for h in highs if h.ByteSize()), default=None)
                    yield Change(request.table_uid, event.number, landed, commit_us, high, event.trace_context)
