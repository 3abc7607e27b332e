"""The same rows whichever way they come: opened in place, fetched by URL, streamed. And what a new version costs each way."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from millrace.engine.files import StorageFiles
from millrace.engine.names import TableRef
from millrace.engine.pinned import Limits, PinnedTable, Statement
from millrace.engine.run import Engine
from millrace.server.testing import running
from svc_storage.adapters.delta.files import LocalFiles
from svc_storage.ports import Direct, DirectUrl
from tests.integration.analysis.conftest import SPEC, Store, storage_env

NAME = "namespaces/default/tables/t"
SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("at", pa.timestamp("us", "UTC")),
        pa.field("word", pa.string()),
        pa.field("price", pa.decimal128(12, 2)),
    ]
)


class _Quiet(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """The data folder on the web, as an object store would have it."""
    (tmp_path / "data").mkdir(exist_ok=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path / "data")))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def signed(web: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Storage hands out URLs of `web` to whoever does not see its disk."""

    async def urls(self: LocalFiles, paths: Sequence[str]) -> Sequence[DirectUrl]:
        below = self._root.resolve().relative_to((tmp_path / "data").resolve())
        return [DirectUrl(f"{web}/{below}/{path}?signature=x", 4_000_000_000_000_000) for path in paths]

    monkeypatch.setattr(LocalFiles, "direct", Direct.PRESIGNED)
    monkeypatch.setattr(LocalFiles, "urls", urls)


def rows(first: int, count: int) -> pa.Table:
    ids = list(range(first, first + count))
    columns = {
        "id": ids,
        "at": [None if i % 7 == 0 else i * 1_000_000 for i in ids],
        "word": [None if i % 5 == 0 else f"w{i % 11}" for i in ids],
        "price": pa.array([i / 4 for i in ids]).cast(pa.decimal128(12, 2)),
    }
    return pa.table(columns, schema=SCHEMA)


Ways = Mapping[str, StorageFiles]


@pytest.fixture
async def found(store: Store, tmp_path: Path, web: str, signed: None) -> AsyncIterator[Ways]:
    made = {}
    for name, endpoints in {"fetched": [web], "streamed": []}.items():
        (tmp_path / name).mkdir()
        made[name] = StorageFiles(store.connection, data_root=None, spool=tmp_path / name, endpoints=endpoints)
    yield made
    for files in made.values():
        await files.close()


def content(table: PinnedTable) -> list[dict[str, object]]:
    parts = [pq.read_table(path, columns=table.schema.names) for path in table.files]
    found = [row for part in parts for row in part.to_pylist()]
    return sorted(found, key=lambda row: row["id"])


@pytest.mark.parametrize("seed", range(3))
async def test_the_same_rows_in_every_way(store: Store, found: Ways, tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    await store.create(NAME, SCHEMA, "at")
    versions, total = {0: 0}, 0
    for _ in range(25):
        count = dice.choice([1, 3, 40, 500])
        version = await store.append(NAME, rows(total, count), writer=f"w{dice.randrange(2)}")
        total += count
        versions[version] = total
        if dice.random() < 0.6:
            continue
        asked = dice.choice([version, version, dice.choice(list(versions))])
        pinned = {name: await files.pin(NAME, version=asked) for name, files in found.items()}
        expected = rows(0, versions[asked]).to_pylist()
        for name, table in pinned.items():
            assert content(table) == expected, name
            assert table.row_count == versions[asked]
    since = sorted(versions)[len(versions) // 2]
    for name, files in found.items():
        added = await files.pin(NAME, after_version=since)
        assert content(added) == rows(versions[since], total - versions[since]).to_pylist(), name
        whole = await files.pin(NAME, storage_columns=True)
        assert [row["id"] for row in content(whole)] == list(range(total))
        assert all(row["_ingested_at"] for row in content(whole))
        assert list((tmp_path / name).glob("*.partial")) == []


async def test_a_new_version_costs_what_it_added(store: Store, found: Ways) -> None:
    await store.create(NAME, SCHEMA, "at")
    await store.append(NAME, rows(0, 10_000))
    for number in range(10):
        await store.append(NAME, rows(10_000 + number * 10, 10))
        for files in found.values():
            pinned = await asyncio.gather(*(files.pin(NAME) for _ in range(12)))
            assert {table.row_count for table in pinned} == {10_010 + number * 10}
    fetched, streamed = found["fetched"].counters(), found["streamed"].counters()
    assert fetched["rows_streamed"] == 0
    assert fetched["files_fetched"] <= 13  # one per commit, and what was compacted meanwhile
    assert streamed["files_fetched"] == 0
    assert streamed["full_reads"] == 1
    assert streamed["rows_streamed"] == 10_100


@pytest.mark.usefixtures("signed")
async def test_urls_of_another_host_are_not_opened(store: Store, tmp_path: Path) -> None:
    await store.create(NAME, SCHEMA)
    await store.append(NAME, rows(0, 10))
    (tmp_path / "spool").mkdir()
    files = StorageFiles(
        store.connection, data_root=store.data, spool=tmp_path / "spool", endpoints=["https://store.example"]
    )
    assert content(await files.pin(NAME)) == rows(0, 10).to_pylist()
    assert files.counters()["files_fetched"] == 0
    assert files.counters()["rows_streamed"] == 10


@pytest.fixture
async def memory(tmp_path: Path) -> AsyncIterator[Store]:
    data = tmp_path / "data"
    env = storage_env(data) | {"MILLRACE_STORAGE_BACKEND": "memory"}
    async with running(SPEC, env, home=tmp_path) as served:
        yield Store(served, data)


async def test_a_store_without_files(memory: Store, tmp_path: Path) -> None:
    """Only streams: a live table followed while it grows, older versions beside it."""
    await memory.create(NAME, SCHEMA, "at")
    (tmp_path / "spool").mkdir()
    files = StorageFiles(memory.connection, data_root=None, spool=tmp_path / "spool")
    engine = Engine(Limits(memory_mb=200), str(tmp_path))
    versions, held = {}, []
    for number in range(30):
        version = await memory.append(NAME, rows(number * 20, 20))
        versions[version] = (number + 1) * 20
        held.append(await files.pin(NAME))
    question = Statement(sql="select count(*) n, sum(id) s from t")
    for table in [*held, *[await files.pin(NAME, version=version) for version in versions]]:
        count = versions[table.version]
        answer = await engine.table(question, {TableRef("", "t"): table})
        assert answer.to_pylist() == [{"n": count, "s": sum(range(count))}]
    assert files.counters()["full_reads"] == 1
    assert files.counters()["rows_streamed"] == 600
    await files.close()
