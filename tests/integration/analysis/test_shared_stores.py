"""A live table in a store without a shared disk, read by DuckDB: presigned files of S3, streams of S3 and of Cassandra."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest

from millrace.engine.files import StorageFiles
from millrace.engine.names import TableRef
from millrace.engine.pinned import Limits, Statement
from millrace.engine.run import Engine
from millrace.server.testing import running
from tests.integration.analysis.conftest import SPEC, Store, storage_env
from tests.integration.analysis.test_ways import NAME, SCHEMA, content, rows
from tests.servers import weed

CHOSEN = os.environ.get("TEST_BACKENDS", "s3").split(",")


def _s3() -> Mapping[str, str]:
    return weed.settings(weed.shared_weed(), f"engine/{uuid.uuid4().hex[:12]}")


def _cassandra() -> Mapping[str, str]:
    from tests.servers.cassandra import shared_cassandra

    return {
        "MILLRACE_STORAGE_BACKEND": "cassandra",
        "MILLRACE_STORAGE_CASSANDRA_CONTACT_POINTS": ",".join(shared_cassandra().contact_points),
        "MILLRACE_STORAGE_CASSANDRA_KEYSPACE": f"e_{uuid.uuid4().hex[:12]}",
    }


STORES: Mapping[str, Callable[[], Mapping[str, str]]] = {"s3": _s3, "cassandra": _cassandra}


@pytest.fixture(params=[name for name in STORES if name in CHOSEN])
async def shared(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Store, str]]:
    """A storage, and where its files may be fetched from ("" for nowhere)."""
    env = storage_env(tmp_path / "data") | STORES[request.param]()
    for name, value in env.items():
        if not name.startswith("MILLRACE_"):
            monkeypatch.setitem(os.environ, name, value)
    async with running(SPEC, env, home=tmp_path) as served:
        yield Store(served, tmp_path / "data"), env.get("MILLRACE_STORAGE_S3_ENDPOINT", "")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("configured", [True, False])
async def test_a_live_table_is_followed(shared: tuple[Store, str], tmp_path: Path, configured: bool) -> None:
    (tmp_path / "spool").mkdir()
    store, endpoint = shared
    endpoints = [endpoint] if endpoint and configured else []
    files = StorageFiles(store.connection, data_root=None, spool=tmp_path / "spool", endpoints=endpoints)
    engine = Engine(Limits(memory_mb=200), str(tmp_path))
    await store.create(NAME, SCHEMA, "at")
    total = 0
    for count in (5_000, 10, 1, 300):
        await store.append(NAME, rows(total, count))
        total += count
        pinned = await files.pin(NAME)
        answer = await engine.table(Statement(sql="select count(*) n, sum(id) s from t"), {TableRef("", "t"): pinned})
        assert answer.to_pylist() == [{"n": total, "s": sum(range(total))}]
    assert content(pinned) == rows(0, total).to_pylist()
    told = files.counters()
    assert told["full_reads"] == (0 if endpoints else 1)
    assert told["rows_streamed"] == (0 if endpoints else total)
    assert (told["files_fetched"] > 0) == bool(endpoints)
    await files.close()
