"""Files by presigned URL, against a small web server that signs, expires, redirects, cuts and lies."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from millrace.engine import fetch
from millrace.engine.fetch import Fetcher, Remote, is_origin, origin_of
from millrace.engine.shelf import Shelf
from millrace.errors import ChecksumMismatch, DiskFull, FileMissing, StoreUnavailable


class Bucket(ThreadingHTTPServer):
    """`objects` by path; a URL is good while its `?key=` is in `keys`. `moods`: what happens to the next requests of a path."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.keys = {"good"}
        self.moods: dict[str, list[str]] = {}
        self.got: Counter[str] = Counter()
        self.at_once = self.most_at_once = 0
        self.guard = threading.Lock()

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def remote(self, name: str, key: str = "good") -> Remote:
        return Remote(name, f"{self.origin}/{name}?key={key}", len(self.objects.get(f"/{name}", b"")))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Bucket

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        bucket = self.server
        with bucket.guard:
            bucket.got[path] += 1
            bucket.at_once += 1
            bucket.most_at_once = max(bucket.most_at_once, bucket.at_once)
            mood = bucket.moods[path].pop(0) if bucket.moods.get(path) else ""
        try:
            self._answer(path, query.removeprefix("key="), mood)
        finally:
            with bucket.guard:
                bucket.at_once -= 1

    def _answer(self, path: str, key: str, mood: str) -> None:
        body = self.server.objects.get(path, b"")
        if mood == "redirect":
            return self._head(307, 0, Location=f"{self.server.origin}/elsewhere?key=good")
        if mood == "busy":
            return self._head(503, 0)
        if key not in self.server.keys:
            return self._head(403, 0)
        if path not in self.server.objects:
            return self._head(404, 0)
        if mood == "slow":
            time.sleep(0.3)
        if mood == "longer":
            body += b"x"
        self._head(200, len(body))
        self.wfile.write(body[: len(body) // 2] if mood == "cut" else body)
        if mood == "cut":
            self.close_connection = True
        return None

    def _head(self, status: int, length: int, **more: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        for name, value in more.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    server = Bucket()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path, 1 << 20)


@pytest.fixture
def fetcher(bucket: Bucket, shelf: Shelf) -> Iterator[Fetcher]:
    made = Fetcher(shelf, [bucket.origin], workers=3)
    yield made
    made.close()


async def never() -> Sequence[Remote]:
    raise AssertionError("listed again")


async def test_each_file_comes_once_whoever_asks(bucket: Bucket, shelf: Shelf, fetcher: Fetcher) -> None:
    names = [f"f{number}" for number in range(9)]
    for name in names:
        bucket.objects[f"/{name}"] = name.encode() * 1000
        bucket.moods[f"/{name}"] = ["slow"]
    first = [bucket.remote(name) for name in names[:7]]
    second = [bucket.remote(name) for name in names[2:]]
    found = await asyncio.gather(*(fetcher.fetch("uid", files, never) for files in (first, second, first, second)))
    for (paths, _), files in zip(found, (first, second, first, second), strict=True):
        assert [Path(path).read_bytes() for path in paths] == [file.id.encode() * 1000 for file in files]
    assert set(bucket.got.values()) == {1}
    assert bucket.most_at_once <= 3
    await fetcher.fetch("other table", [bucket.remote("f0")], never)
    assert bucket.got["/f0"] == 2


async def test_an_expired_url_is_listed_again_once(bucket: Bucket, fetcher: Fetcher) -> None:
    for name in "abc":
        bucket.objects[f"/{name}"] = b"12345"
    lists = 0

    async def again() -> Sequence[Remote]:
        nonlocal lists
        lists += 1
        return [bucket.remote(name) for name in "abc"]

    paths, _ = await fetcher.fetch("uid", [bucket.remote(name, "expired") for name in "abc"], again)
    assert [Path(path).read_bytes() for path in paths] == [b"12345"] * 3
    assert lists == 1


@pytest.mark.parametrize("mood", ["cut", "busy", "longer"])
async def test_what_broke_is_fetched_again(
    bucket: Bucket, shelf: Shelf, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch, mood: str
) -> None:
    monkeypatch.setattr(fetch, "PAUSE_S", 0.001)
    bucket.objects["/a"] = b"x" * 300_000
    bucket.moods["/a"] = [mood]
    paths, _ = await fetcher.fetch("uid", [bucket.remote("a")], never)
    assert Path(paths[0]).stat().st_size == 300_000
    assert [path.name for path in shelf.folder.iterdir()] == [Path(paths[0]).name]


@pytest.mark.parametrize(
    ("mood", "error"),
    [
        ("cut", StoreUnavailable),
        ("busy", StoreUnavailable),
        ("longer", ChecksumMismatch),
        ("redirect", StoreUnavailable),
    ],
)
async def test_what_stays_broken_is_told_and_leaves_nothing(
    bucket: Bucket, shelf: Shelf, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch, mood: str, error: type[Exception]
) -> None:
    monkeypatch.setattr(fetch, "PAUSE_S", 0.001)
    bucket.objects |= {"/a": b"x" * 1000, "/elsewhere": b"x" * 1000}
    bucket.moods["/a"] = [mood] * 20
    with pytest.raises(error):
        await fetcher.fetch("uid", [bucket.remote("a")], never)
    assert list(shelf.folder.iterdir()) == []
    assert shelf.size_bytes == 0
    assert "/elsewhere" not in bucket.got


async def test_a_file_that_is_gone_and_one_that_does_not_fit(bucket: Bucket, fetcher: Fetcher) -> None:
    with pytest.raises(FileMissing):
        await fetcher.fetch("uid", [bucket.remote("gone")], never)
    bucket.objects["/large"] = b"x" * (2 << 20)
    with pytest.raises(DiskFull):
        await fetcher.fetch("uid", [bucket.remote("large")], never)
    assert "/large" not in bucket.got


async def test_a_cancelled_fetch_leaves_nothing_and_another_takes_over(
    bucket: Bucket, shelf: Shelf, fetcher: Fetcher
) -> None:
    bucket.objects["/a"] = b"x" * 1000
    bucket.moods["/a"] = ["slow"]
    first = asyncio.create_task(fetcher.fetch("uid", [bucket.remote("a")], never))
    await asyncio.sleep(0.1)
    second = asyncio.create_task(fetcher.fetch("uid", [bucket.remote("a")], never))
    await asyncio.sleep(0.05)
    first.cancel()
    paths, _ = await second
    assert first.cancelled()
    assert [path.name for path in shelf.folder.iterdir()] == [Path(paths[0]).name]
    assert bucket.got["/a"] == 2


def test_only_the_store_itself_is_asked(shelf: Shelf) -> None:
    fetcher = Fetcher(shelf, ["https://store.example", "http://127.0.0.1:9000"])
    assert fetcher.accepts("https://store.example/bucket/key?X-Amz-Signature=1")
    assert fetcher.accepts("https://STORE.example:443/x")
    assert fetcher.accepts("http://127.0.0.1:9000/x")
    for url in (
        "http://store.example/x",
        "https://store.example.evil/x",
        "https://store.example@evil/x",
        "https://user@store.example/x",
        "https://store.example:8443/x",
        "http://127.0.0.1/x",
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "https:///x",
        "https://store.example:port/x",
        "",
    ):
        assert not fetcher.accepts(url), url
    assert origin_of("http://[::1]:80/x") == "http://[::1]:80"
    assert is_origin("https://s3.example")
    assert not is_origin("https://s3.example/bucket")
    assert not is_origin("s3.example")
