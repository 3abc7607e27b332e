"""Files of tables by presigned URL: each one whole, once, into the shelf.

The standard library's http.client, on a few threads: it follows no redirect and no proxy, which is what keeps a URL from leading elsewhere,
it streams to disk, and nothing has to be installed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import random
import ssl
import threading
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from millrace.engine.shelf import NO_ROOM, Draft, Hold, Shelf
from millrace.engine.turns import Turns
from millrace.errors import ChecksumMismatch, FileMissing, StoreUnavailable, Unexpected

TIMEOUT_S = 20.0
"""Longest silence of the store."""
TRIES = 4
PAUSE_S = 0.3
"""Before the second try; each later one waits three times as long."""
WORKERS = 6
_CHUNK = 1 << 20
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Remote:
    """A file of a version. `id` names it for ever within its table; `url` opens it for a while."""

    id: str
    url: str
    size_bytes: int


class UrlRefused(Exception):
    """The store does not take the URL (any more): list the files again."""


def origin_of(url: str) -> str:
    """`https://host:port` in lower case. Raises ValueError for what is no plain http(s) address (a user in it, no host)."""
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname or "@" in parts.netloc:
        raise ValueError("expected http(s)://host[:port]")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{parts.port or _PORTS[parts.scheme]}"


def is_origin(text: str) -> bool:
    """True for `http(s)://host[:port]` and nothing behind it."""
    try:
        return bool(origin_of(text)) and urlsplit(text).path in ("", "/") and not urlsplit(text).query
    except ValueError:
        return False


class Fetcher:
    """`origins`: where files may be fetched from, as `origin_of` writes them. Fetches of one file at a time are one."""

    def __init__(self, shelf: Shelf, origins: Collection[str], *, workers: int = WORKERS) -> None:
        self._shelf, self._origins = shelf, frozenset(map(origin_of, origins))
        self._turns: Turns[str] = Turns()
        self._free = asyncio.Semaphore(workers)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="fetch")
        self._idle: list[tuple[tuple[str, str], http.client.HTTPConnection]] = []
        self._closed = False
        self.fetched = 0
        self.fetched_bytes = 0

    def accepts(self, url: str) -> bool:
        """Is it of the configured store?"""
        try:
            return origin_of(url) in self._origins
        except ValueError:
            return False

    async def fetch(
        self, uid: str, files: Sequence[Remote], again: Callable[[], Awaitable[Sequence[Remote]]]
    ) -> tuple[tuple[str, ...], Hold]:
        """The files on the shelf, in order, held. `again`: the same list with fresh URLs.

        Raises StoreUnavailable, FileMissing, ChecksumMismatch, DiskFull; what came by then stays for the next try."""
        fresh = _Fresh(files, again)
        tasks = [asyncio.ensure_future(self._one(uid, file, fresh)) for file in files]
        try:
            holds = await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
        paths = tuple(str(self._shelf.path(_name(uid, file))) for file in files)
        hold = self._shelf.hold(paths)
        if hold is None:
            raise Unexpected("local files went while they were held")
        del holds  # from here on the one hold is enough
        return paths, hold

    def close(self) -> None:
        """Waits for no fetch that is under way."""
        self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)
        while self._idle:
            self._idle.pop()[1].close()

    async def _one(self, uid: str, file: Remote, fresh: _Fresh) -> Hold:
        name = _name(uid, file)
        async with self._turns.of(name):
            if (hold := self._shelf.hold([str(self._shelf.path(name))])) is not None:
                return hold
            async with self._free:
                return await self._try(name, file, fresh)

    async def _try(self, name: str, file: Remote, fresh: _Fresh) -> Hold:
        for attempt in range(1, TRIES + 1):
            known = fresh.lists
            url = fresh.url(file)
            try:
                return await self._download(name, url, file.size_bytes)
            except UrlRefused as refused:
                if attempt == TRIES:
                    raise StoreUnavailable("the store refuses the files' addresses", retry_after_ms=1_000) from refused
                await fresh.renew(known)
            except (StoreUnavailable, ChecksumMismatch):
                if attempt == TRIES:
                    raise
                await asyncio.sleep(random.uniform(0.5, 1.0) * PAUSE_S * 3.0 ** (attempt - 1))
        raise AssertionError

    async def _download(self, name: str, url: str, size_bytes: int) -> Hold:
        stop = threading.Event()

        def work() -> Hold:
            with self._shelf.draft(name) as draft:
                draft.reserve(size_bytes)
                self._copy(url, draft, size_bytes, stop)
                return self._shelf.keep(draft)

        future = asyncio.get_running_loop().run_in_executor(self._pool, work)
        try:
            hold = await asyncio.shield(future)
        except asyncio.CancelledError:
            stop.set()
            await _settled(future)
            raise
        self.fetched += 1
        self.fetched_bytes += size_bytes
        return hold

    def _copy(self, url: str, draft: Draft, size_bytes: int, stop: threading.Event) -> None:
        """Blocking. The bytes of `url`, exactly `size_bytes` of them."""
        parts = urlsplit(url)
        with self._answer(parts) as answer, draft.path.open("wb") as file:
            got = 0
            while chunk := answer.read(_CHUNK):
                got += len(chunk)
                if stop.is_set() or got > size_bytes:
                    break
                file.write(chunk)
            if stop.is_set():
                raise StoreUnavailable("stopped")
            if answer.length and got <= size_bytes:
                raise StoreUnavailable("the object store stopped in the middle of a file", retry_after_ms=500)
            if got != size_bytes:
                raise ChecksumMismatch("a file of the version is not as long as its table says")

    @contextlib.contextmanager
    def _answer(self, parts: SplitResult) -> Iterator[http.client.HTTPResponse]:
        """The open answer. Its connection is used again when all of it was read, else closed."""
        connection, kept = self._connection(parts), False
        try:
            answer = _ask(connection, parts)
            yield answer
            kept = answer.isclosed() and not self._closed
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.errno in NO_ROOM:
                raise
            raise StoreUnavailable("the object store does not answer", retry_after_ms=500) from error
        finally:
            if kept:
                self._idle.append(((parts.scheme, parts.netloc), connection))
            else:
                connection.close()

    def _connection(self, parts: SplitResult) -> http.client.HTTPConnection:
        with contextlib.suppress(IndexError):
            origin, connection = self._idle.pop()
            if origin == (parts.scheme, parts.netloc):
                return connection
            connection.close()
        assert parts.hostname is not None
        port = parts.port or _PORTS[parts.scheme]
        if parts.scheme == "http":
            return http.client.HTTPConnection(parts.hostname, port, timeout=TIMEOUT_S)
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(parts.hostname, port, timeout=TIMEOUT_S, context=context)


class _Fresh:
    """The newest URLs of a list of files; several that are refused at once list again once."""

    def __init__(self, files: Sequence[Remote], again: Callable[[], Awaitable[Sequence[Remote]]]) -> None:
        self._again = again
        self._urls = {file.id: file.url for file in files}
        self._lock = asyncio.Lock()
        self.lists = 0

    def url(self, file: Remote) -> str:
        if (found := self._urls.get(file.id)) is None:
            raise FileMissing("a file of the version is gone", hint="ask again without a pinned version")
        return found

    async def renew(self, known: int) -> None:
        async with self._lock:
            if self.lists == known:
                self._urls = {file.id: file.url for file in await self._again()}
                self.lists += 1


def _name(uid: str, file: Remote) -> str:
    return f"{hashlib.sha256(f'{uid}/{file.id}/{file.size_bytes}'.encode()).hexdigest()[:40]}.parquet"


def _ask(connection: http.client.HTTPConnection, parts: SplitResult) -> http.client.HTTPResponse:
    target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
    reused = connection.sock is not None
    try:
        answer = _answer_to(connection, target)
    except (OSError, http.client.HTTPException):
        connection.close()
        if not reused:
            raise
        answer = _answer_to(connection, target)  # a kept connection may have been closed by the other side meanwhile
    if answer.status == 200:
        return answer
    connection.close()
    raise _refusal(answer.status)


def _answer_to(connection: http.client.HTTPConnection, target: str) -> http.client.HTTPResponse:
    connection.request("GET", target, headers={"Accept-Encoding": "identity"})
    return connection.getresponse()


def _refusal(status: int) -> Exception:
    if status in (400, 401, 403):
        return UrlRefused(str(status))
    if status in (404, 410):
        return FileMissing("a file of the version is gone", hint="ask again without a pinned version")
    return StoreUnavailable(f"the object store answered {status}", retry_after_ms=500)


async def _settled(future: asyncio.Future[Hold]) -> None:
    """Until the thread has let go of the file; its socket gives up by itself after TIMEOUT_S."""
    await asyncio.wait([future], timeout=5.0)
    if future.done() and not future.cancelled():
        future.exception()
