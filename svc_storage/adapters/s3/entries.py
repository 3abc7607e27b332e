"""The control log as objects: entries `log/%020d` by put if absent, snapshots `snapshots/%020d`, both below one prefix."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from millrace.errors import StoreUnavailable
from svc_storage.adapters.s3.objects import Objects

T = TypeVar("T")
LOG, SNAPSHOTS = "log", "snapshots"
AT_ONCE = 16
TRIM_AT_ONCE = 1_000


class S3Entries:
    """`objects`: those below `control`. A snapshot is one object; a listing says which there are."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="control")

    async def put_if_absent(self, n: int, data: bytes) -> bytes | None:
        return await self._call(lambda: self._put(_key(LOG, n), data))

    def _put(self, key: str, data: bytes) -> bytes | None:
        try:
            return None if self._objects.put_if_absent(key, data) else self._objects.get(key)
        except FileNotFoundError as trimmed:  # in this moment
            raise StoreUnavailable(
                "the control log was trimmed while it was written to", retry_after_ms=100
            ) from trimmed

    async def read_from(self, n: int, limit: int) -> Sequence[bytes]:
        found: list[bytes] = []
        width = 1  # most calls find nothing
        while len(found) < limit:
            first, width = n + len(found), min(width, limit - len(found))
            got = await asyncio.gather(*(self._get(_key(LOG, first + i)) for i in range(width)))
            there = [data for data in got if data is not None]
            found.extend(there if len(there) == width else got[: got.index(None)])  # type: ignore[arg-type]
            if len(there) < width:
                break
            width = min(width * 4, AT_ONCE)
        return found

    async def put_snapshot(self, n: int, data: bytes) -> None:
        await self._call(lambda: self._objects.put(_key(SNAPSHOTS, n), data))

    async def snapshots(self) -> Sequence[int]:
        return await self._call(lambda: sorted(_number(found.key) for found in self._objects.list(SNAPSHOTS)))

    async def get_snapshot(self, n: int) -> bytes | None:
        return await self._get(_key(SNAPSHOTS, n))

    async def trim(self, below: int, *, snapshots_below: int) -> None:
        for folder, limit in ((LOG, below), (SNAPSHOTS, snapshots_below)):
            while doomed := await self._call(lambda folder=folder, limit=limit: self._below(folder, limit)):  # type: ignore[misc]
                await self._call(lambda doomed=doomed: self._objects.delete(doomed))  # type: ignore[misc]
                if len(doomed) < TRIM_AT_ONCE:
                    break

    async def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _below(self, folder: str, limit: int) -> list[str]:
        """The lowest keys, at most a thousand: what goes at once has no order, but what goes later is higher."""
        doomed: list[str] = []
        for found in self._objects.list(folder):
            if _number(found.key) >= limit or len(doomed) == TRIM_AT_ONCE:
                break
            doomed.append(found.key)
        return doomed

    async def _get(self, key: str) -> bytes | None:
        def get() -> bytes | None:
            try:
                return self._objects.get(key)
            except FileNotFoundError:
                return None

        return await self._call(get)

    async def _call(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except RuntimeError as closed:
            raise StoreUnavailable("the catalog is closed") from closed


def _key(folder: str, n: int) -> str:
    return f"{folder}/{n:020d}"


def _number(key: str) -> int:
    return int(key.rpartition("/")[2])
