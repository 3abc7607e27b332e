"""A store in a Cassandra keyspace."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor, ThreadPoolExecutor

from svc_storage.adapters.cassandra import checks, migrations
from svc_storage.adapters.cassandra.backend import CassandraBackend
from svc_storage.adapters.cassandra.entries import CassandraEntries
from svc_storage.adapters.cassandra.session import Place, Session, connect
from svc_storage.adapters.control_log.store import LogControl
from svc_storage.ports import Store


def open_session(place: Place, cluster: str) -> tuple[Session, str]:
    """Blocking. A session in the keyspace, made or brought to this release's form where needed; the keyspace's id. `cluster`: whose
    it is. Raises StoreUnavailable, NotAllowed: whatever would lose rows is refused by name."""
    session = connect(place)
    try:
        checks.check_server(session)
        store_id = migrations.open_keyspace(session, checks.copies)
        checks.check_keyspace(session)
        migrations.claim(session, cluster)
    except BaseException:
        session.cluster.shutdown()
        raise
    return session, store_id


async def open_backend(session: Session, pool: Executor) -> CassandraBackend:
    backend = CassandraBackend(session, pool)
    await backend.prepare()
    return backend


async def open_cassandra(place: Place, *, cluster: str, at_once: int) -> Store:
    """Tables as column chunks, the rest as a log of conditional rows. `at_once`: files that are written, packed or removed at a time,
    tables together. Raises StoreUnavailable, NotAllowed, FieldInvalid, as `open_session`."""
    session, store_id = await asyncio.to_thread(open_session, place, cluster)
    pool = ThreadPoolExecutor(at_once, thread_name_prefix="cassandra")
    try:
        backend = await open_backend(session, pool)
        control = await LogControl.open(CassandraEntries(session))
    except BaseException:
        pool.shutdown(wait=False)
        await session.close()
        raise

    async def close() -> None:
        await control.close()
        await asyncio.to_thread(pool.shutdown)
        await session.close()

    return Store(backend=backend, control=control, id=store_id, close=close, key_tables=backend.key_table)
