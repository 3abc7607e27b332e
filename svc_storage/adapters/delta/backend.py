"""Delta tables in folders named by uid, below `<data>/tables`."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties

from svc_storage.adapters import disk
from svc_storage.adapters.delta import codec, recovery
from svc_storage.adapters.delta.files import LOG, LocalFiles, from_os_error
from svc_storage.adapters.delta.log import DeltaLog
from svc_storage.ports import Commit, CommitKind

CONFIGURATION = {
    "delta.enableExpiredLogCleanup": "false",  # the writers' records live in the log: only we cut it
    "delta.checkpointInterval": "100000",  # we checkpoint
    "delta.deletedFileRetentionDuration": "interval 24 hours",
}


class DeltaBackend:
    """`root` exists. `pool` bounds how many deltalake and pyarrow calls run at once."""

    name = "local"

    def __init__(self, root: Path, pool: Executor) -> None:
        self._root, self._pool = root, pool

    async def create(self, uid: str, schema: pa.Schema, *, time_us: int) -> None:
        await self._run(lambda: self._create(uid, schema, time_us))

    def open(self, uid: str) -> tuple[DeltaLog, LocalFiles]:
        folder = self._root / uid
        return DeltaLog(folder, self._pool), LocalFiles(folder, self._pool)

    async def drop(self, uid: str) -> None:
        await self._run(lambda: shutil.rmtree(self._root / uid, ignore_errors=True))

    async def list_uids(self) -> Sequence[str]:
        return sorted(path.name for path in self._root.iterdir() if path.is_dir())

    def _create(self, uid: str, schema: pa.Schema, time_us: int) -> None:
        folder = self._root / uid
        first = folder / LOG / recovery.log_name(0)
        if first.exists() and first.stat().st_size == 0:  # the power went before its fsync
            first.unlink()
        if not first.exists():
            disk.make_folder(folder)
            commit = Commit(id=f"create-{uid}", kind=CommitKind.SCHEMA, time_us=time_us, schema_id=1)
            DeltaTable.create(
                folder,
                schema,
                mode="error",
                configuration=CONFIGURATION,
                commit_properties=CommitProperties(custom_metadata={codec.KEY: codec.encode_record(commit)}),
                post_commithook_properties=PostCommitHookProperties(
                    create_checkpoint=False, cleanup_expired_logs=False
                ),
            )
        disk.fsync_file(first)
        disk.fsync_folder(first.parent)
        disk.fsync_folder(folder)

    async def _run(self, work: Callable[[], None]) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except OSError as error:
            raise from_os_error(error) from error
