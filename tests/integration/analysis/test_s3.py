"""Presigned files of a real object store, and a table of its own that only streams: DuckDB answers over both."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator
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


@pytest.fixture
async def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Store]:
    env = storage_env(tmp_path / "data") | weed.settings(weed.shared_weed(), f"engine/{uuid.uuid4().hex[:12]}")
    for name, value in env.items():
        if not name.startswith("MILLRACE_"):
            monkeypatch.setitem(os.environ, name, value)
    async with running(SPEC, env, home=tmp_path) as served:
        yield Store(served, tmp_path / "data")


@pytest.mark.parametrize("way", ["fetched", "streamed"])
async def test_a_live_table_on_s3(bucket: Store, tmp_path: Path, way: str) -> None:
    (tmp_path / "spool").mkdir()
    endpoints = [weed.shared_weed().endpoint] if way == "fetched" else []
    files = StorageFiles(bucket.connection, data_root=None, spool=tmp_path / "spool", endpoints=endpoints)
    engine = Engine(Limits(memory_mb=200), str(tmp_path))
    await bucket.create(NAME, SCHEMA, "at")
    total = 0
    for count in (5_000, 10, 1, 300):
        await bucket.append(NAME, rows(total, count))
        total += count
        pinned = await files.pin(NAME)
        answer = await engine.table(Statement(sql="select count(*) n, sum(id) s from t"), {TableRef("", "t"): pinned})
        assert answer.to_pylist() == [{"n": total, "s": sum(range(total))}]
    assert content(pinned) == rows(0, total).to_pylist()
    told = files.counters()
    assert told["full_reads"] == (0 if way == "fetched" else 1)
    assert told["rows_streamed"] == (0 if way == "fetched" else total)
    assert (told["files_fetched"] > 0) == (way == "fetched")
    await files.close()
