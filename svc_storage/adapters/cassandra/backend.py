"""Tables of one keyspace, by uid."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor

import pyarrow as pa

from millrace import errors
from svc_storage.adapters.cassandra import codec, files, key_table, log, objects, paths
from svc_storage.adapters.cassandra.files import CassandraFiles
from svc_storage.adapters.cassandra.key_table import CassandraKeyTable
from svc_storage.adapters.cassandra.log import Bases, CassandraLog
from svc_storage.adapters.cassandra.session import Session

_CREATE = "INSERT INTO tables (uid, created_us, arrow_schema, bases, buckets) VALUES (?, ?, ?, ?, ?) IF NOT EXISTS"
_FORGET = "DELETE FROM tables WHERE uid = ? IF EXISTS"
_ALL = "SELECT uid FROM tables"


class CassandraBackend:
    """`pool` bounds how much is packed, written and removed at once."""

    name = "cassandra"
    shared = True

    def __init__(self, session: Session, pool: Executor) -> None:
        self._session, self._pool = session, pool

    async def prepare(self) -> None:
        """Before the first use; what is prepared later costs its first caller a round trip."""
        texts = (
            _CREATE,
            _FORGET,
            *key_table.STATEMENTS,
            *log.STATEMENTS,
            *files.STATEMENTS,
            *objects.STATEMENTS,
            *paths.STATEMENTS,
        )
        await asyncio.to_thread(self._session.prepare, *texts)

    async def create(self, uid: str, schema: pa.Schema, *, time_us: int) -> None:
        values = (uid, time_us, codec.schema_bytes(schema), Bases().text(), "[]")
        for tries_left in (2, 1, 0):  # the next one settles the one before; either way it is there
            try:
                await self._session.cas(_CREATE, *values)
                return
            except errors.OutcomeUnknown:
                if not tries_left:
                    raise

    def open(self, uid: str) -> tuple[CassandraLog, CassandraFiles]:
        return CassandraLog(self._session, uid, self._pool), CassandraFiles(self._session, uid, self._pool)

    def key_table(self, uid: str) -> CassandraKeyTable:
        return CassandraKeyTable(self._session, uid, self._pool)

    async def drop(self, uid: str) -> None:
        await self.key_table(uid).drop()
        own_log, own_files = self.open(uid)
        try:
            await own_files.drop()
            await own_log.drop()
        except errors.FileMissing:
            return
        await self._session.cas(_FORGET, uid)

    async def list_uids(self) -> Sequence[str]:
        return sorted(uid for (uid,) in await self._session.run(_ALL))
