"""Delta tables below `<prefix>/tables/<uid>` of a bucket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import TypeVar

import pyarrow as pa

from svc_storage.adapters.delta import codec
from svc_storage.adapters.delta.log import DeltaLog
from svc_storage.adapters.s3.cache import FileCache
from svc_storage.adapters.s3.files import S3Files
from svc_storage.adapters.s3.objects import Objects
from svc_storage.adapters.s3.place import S3Place

T = TypeVar("T")


class S3Backend:
    """`objects`: those of the tables. `pool` bounds how many calls to the store run at once."""

    name = "s3"
    shared = True

    def __init__(self, objects: Objects, cache: FileCache, pool: Executor) -> None:
        self._objects, self._cache, self._pool = objects, cache, pool

    async def create(self, uid: str, schema: pa.Schema, *, time_us: int) -> None:
        place = S3Place(self._objects.below(uid))
        await self._run(lambda: place.create(schema, codec.creation(uid, time_us)))

    def open(self, uid: str) -> tuple[DeltaLog, S3Files]:
        objects = self._objects.below(uid)
        return DeltaLog(S3Place(objects), self._pool), S3Files(objects, self._cache, self._pool)

    async def drop(self, uid: str) -> None:
        def drop() -> None:
            objects = self._objects.below(uid)
            objects.delete([found.key for found in objects.list()])

        await self._run(drop)

    async def list_uids(self) -> Sequence[str]:
        def listed() -> Sequence[str]:
            # Some stores keep a folder's name after its last object.
            return [uid for uid in self._objects.folders() if next(self._objects.list(uid), None) is not None]

        return await self._run(listed)

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)
