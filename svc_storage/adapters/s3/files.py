"""The files of one table in an object store: written to the local disk, sent whole, read through a bounded cache or by ranges."""

from __future__ import annotations

import asyncio
import io
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from typing import TypeVar

import pyarrow as pa

from millrace import errors
from millrace.failpoints import failpoint
from svc_storage.adapters import disk
from svc_storage.adapters.delta.place import LOG, RECORDS
from svc_storage.adapters.parquet import write_parquet
from svc_storage.adapters.parquet_rows import batches_of
from svc_storage.adapters.s3.cache import FileCache
from svc_storage.adapters.s3.objects import Objects
from svc_storage.ports import DataFile, Direct, DirectUrl

T = TypeVar("T")
URL_SECONDS = 15 * 60
RANGE_BYTES, RANGES_HELD = 512 << 10, 16
"""Of one read of a file that is too large for the cache, and how many are kept: its columns are read side by side."""


class S3Files:
    """`objects`: those of the table. Work runs on `pool`."""

    direct = Direct.PRESIGNED
    widens_in_place = False  # as on a disk: polars refuses a decimal that a file holds narrower than the log says

    def __init__(self, objects: Objects, cache: FileCache, pool: Executor) -> None:
        self._objects, self._cache, self._pool = objects, cache, pool

    async def write(
        self, path: str, batches: Iterable[pa.RecordBatch], schema: pa.Schema, *, level: int = 0
    ) -> DataFile:
        return await self._run(lambda: self._write(path, batches, schema, level))

    def batches(
        self, file: DataFile, schema: pa.Schema, first: int = 0, last: int | None = None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        cached = self._cache.takes(file.size_bytes)
        row = first
        try:
            for start, batch in batches_of(lambda path: self._open(path, file, cached), file, schema, first, last):
                row = start + batch.num_rows
                yield start, batch
            return
        except errors.ChecksumMismatch:
            if not cached:
                raise
        # The copy may be what is damaged: the object decides.
        self._cache.forget(self._key(file.path))
        yield from batches_of(lambda path: self._open(path, file, False), file, schema, row, last)

    async def urls(self, paths: Sequence[str]) -> Sequence[DirectUrl]:
        expire_us = time.time_ns() // 1000 + URL_SECONDS * 1_000_000
        signed = await self._run(lambda: self._objects.sign(paths, URL_SECONDS))
        return [DirectUrl(url, expire_us) for url in signed]

    async def put_record(self, name: str, content: bytes) -> None:
        await self._run(lambda: self._objects.put(f"{RECORDS}/{name}", content))

    async def get_record(self, name: str) -> bytes | None:
        def read() -> bytes | None:
            try:
                return self._objects.get(f"{RECORDS}/{name}")
            except FileNotFoundError:
                return None

        return await self._run(read)

    async def list_paths(self) -> Sequence[tuple[str, int]]:
        def listed() -> Sequence[tuple[str, int]]:
            folders, found = self._objects.look()
            for folder in folders:
                if folder != LOG:
                    found = [*found, *self._objects.list(folder)]
            return [(one.key, one.modified_us) for one in found]

        return await self._run(listed)

    async def remove(self, paths: Sequence[str]) -> None:
        await self._run(lambda: self._objects.delete(paths))
        for path in paths:
            self._cache.forget(self._key(path))

    def _key(self, path: str) -> str:
        return f"{self._objects.url}/{path}"

    def _open(self, path: str, file: DataFile, cached: bool) -> pa.NativeFile:
        try:
            if cached:
                try:
                    return self._cache.open(self._key(path), lambda target: self._objects.fetch(path, target))
                except FileNotFoundError:
                    raise
                except OSError:  # the cache's disk is full or broken: read without it
                    pass
            size = self._objects.size(path)
        except FileNotFoundError as missing:
            raise _missing(path) from missing
        if size != file.size_bytes:
            raise errors.ChecksumMismatch(f"the file {path} of the table has another size than the log says")
        return pa.PythonFile(_Ranges(self._objects, path, size), mode="r")

    def _write(self, path: str, batches: Iterable[pa.RecordBatch], schema: pa.Schema, level: int) -> DataFile:
        spooled = self._cache.spool()
        try:
            rows, stats = write_parquet(str(spooled), batches, schema, level=level)
            failpoint("storage.after_parquet_write")
            size = spooled.stat().st_size
            self._objects.put_file(path, spooled)
            failpoint("storage.after_parquet_fsync")
            self._cache.adopt(self._key(path), spooled)  # who reads next reads what is new
        except OSError as error:
            raise disk.from_os_error(error) from error
        finally:
            spooled.unlink(missing_ok=True)
        return DataFile(path, size, rows, level, 0, time.time_ns() // 1_000_000, stats)

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


class _Ranges(io.RawIOBase):
    """A large object as a file, for one reader at a time."""

    def __init__(self, objects: Objects, path: str, size: int) -> None:
        self._objects, self._path, self._size = objects, path, size
        self._at = 0
        self._held: deque[tuple[int, bytes]] = deque(maxlen=RANGES_HELD)  # (where it begins, bytes), newest last

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, size: int = -1) -> bytes:
        end = self._size if size < 0 else min(self._size, self._at + size)
        start, self._at = self._at, max(self._at, end)
        if start >= end:
            return b""
        for held in self._held:
            if held[0] <= start and end <= held[0] + len(held[1]):
                return held[1][start - held[0] : end - held[0]]
        until = min(self._size, max(end, start + RANGE_BYTES))
        try:
            fetched = self._objects.get_range(self._path, start, until)
        except FileNotFoundError as missing:
            raise _missing(self._path) from missing
        self._held.append((start, fetched))
        return fetched[: end - start]


def _missing(path: str) -> errors.FileMissing:
    return errors.FileMissing(f"file {path} of the table is missing")
