"""The files of one Delta table on a local disk."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from millrace import errors
from millrace.failpoints import failpoint
from svc_storage.adapters import disk
from svc_storage.adapters.delta.place import LOG, RECORDS
from svc_storage.adapters.parquet import write_parquet
from svc_storage.adapters.parquet_rows import batches_of
from svc_storage.ports import DataFile, Direct, DirectUrl

T = TypeVar("T")


class LocalFiles:
    """Below `root`, the table's folder. Work runs on `pool`; committed files are 0444."""

    direct = Direct.SAME_DISK
    widens_in_place = False  # polars refuses a decimal that a file holds narrower than the log says

    def __init__(self, root: Path, pool: Executor) -> None:
        self._root, self._pool = root, pool

    async def write(
        self, path: str, batches: Iterable[pa.RecordBatch], schema: pa.Schema, *, level: int = 0
    ) -> DataFile:
        return await self._run(lambda: self._write(path, batches, schema, level))

    def batches(
        self, file: DataFile, schema: pa.Schema, first: int = 0, last: int | None = None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        return batches_of(self._open, file, schema, first, last)

    async def urls(self, paths: Sequence[str]) -> Sequence[DirectUrl]:
        return [DirectUrl((self._root / path).resolve().as_uri()) for path in paths]

    async def put_record(self, name: str, content: bytes) -> None:
        await self._run(lambda: disk.put(self._root / RECORDS / name, content))

    async def get_record(self, name: str) -> bytes | None:
        def read() -> bytes | None:
            try:
                return (self._root / RECORDS / name).read_bytes()
            except FileNotFoundError:
                return None

        return await self._run(read)

    async def list_paths(self) -> Sequence[tuple[str, int]]:
        return await self._run(self._list)

    async def remove(self, paths: Sequence[str]) -> None:
        def unlink() -> None:
            for path in paths:
                (self._root / path).unlink(missing_ok=True)

        await self._run(unlink)

    def _open(self, path: str) -> pa.NativeFile:
        try:
            return pa.OSFile(str(self._root / path), "rb")
        except FileNotFoundError as missing:
            raise errors.FileMissing(f"file {path} of the table is missing") from missing

    def _write(self, path: str, batches: Iterable[pa.RecordBatch], schema: pa.Schema, level: int) -> DataFile:
        target = self._root / path
        disk.make_folder(target.parent)
        try:
            rows, stats = write_parquet(str(target), batches, schema, level=level)
            failpoint("storage.after_parquet_write")
            disk.fsync_file(target)
            os.chmod(target, disk.COMMITTED_MODE)
            disk.fsync_folder(target.parent)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        failpoint("storage.after_parquet_fsync")
        return DataFile(path, target.stat().st_size, rows, level, 0, time.time_ns() // 1_000_000, stats)

    def _list(self) -> Sequence[tuple[str, int]]:
        found = []
        for folder, folders, names in os.walk(self._root):
            if LOG in folders:
                folders.remove(LOG)
            for name in names:
                path = Path(folder) / name
                found.append((path.relative_to(self._root).as_posix(), path.stat().st_mtime_ns // 1000))
        return found

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except OSError as error:
            raise disk.from_os_error(error) from error
