"""Delta tables in folders named by uid, below `<data>/tables`."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path

import pyarrow as pa

from svc_storage.adapters import disk
from svc_storage.adapters.delta import codec
from svc_storage.adapters.delta.files import LocalFiles
from svc_storage.adapters.delta.log import DeltaLog
from svc_storage.adapters.delta.place import LocalPlace


class DeltaBackend:
    """`root` exists. `pool` bounds how many deltalake and pyarrow calls run at once."""

    name = "local"
    shared = False

    def __init__(self, root: Path, pool: Executor) -> None:
        self._root, self._pool = root, pool

    async def create(self, uid: str, schema: pa.Schema, *, time_us: int) -> None:
        await self._run(lambda: LocalPlace(self._root / uid).create(schema, codec.creation(uid, time_us)))

    def open(self, uid: str) -> tuple[DeltaLog, LocalFiles]:
        folder = self._root / uid
        return DeltaLog(LocalPlace(folder), self._pool), LocalFiles(folder, self._pool)

    async def drop(self, uid: str) -> None:
        await self._run(lambda: shutil.rmtree(self._root / uid, ignore_errors=True))

    async def list_uids(self) -> Sequence[str]:
        return sorted(path.name for path in self._root.iterdir() if path.is_dir())

    async def _run(self, work: Callable[[], None]) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except OSError as error:
            raise disk.from_os_error(error) from error
