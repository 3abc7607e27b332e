"""A store in a bucket: tables as Delta Lake below `tables/`, the rest as a log of objects below `control/`, `store-id` beside them."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from millrace import errors
from svc_storage.adapters import disk
from svc_storage.adapters.control_log.store import LogControl
from svc_storage.adapters.s3 import preflight
from svc_storage.adapters.s3.backend import S3Backend
from svc_storage.adapters.s3.cache import FileCache
from svc_storage.adapters.s3.credentials import Credentials
from svc_storage.adapters.s3.entries import S3Entries
from svc_storage.adapters.s3.objects import Address, Objects
from svc_storage.ports import Store


async def open_s3(
    address: Address, credentials: Credentials, *, cluster: str, cache_dir: Path, cache_bytes: int, at_once: int
) -> Store:
    """`cluster`: whose prefix it is. `at_once`: calls to the store under way, tables together.

    Raises StoreUnavailable, with one sentence, when the store does not answer, refuses us, cannot commit, or is another cluster's."""
    objects = Objects(address, credentials)
    pool = ThreadPoolExecutor(at_once, thread_name_prefix="s3")
    try:
        store_id = await asyncio.get_running_loop().run_in_executor(pool, _checked, objects, cluster)
        cache = _cache(cache_dir, cache_bytes)
        control = await LogControl.open(S3Entries(objects.below("control")))
    except BaseException:
        pool.shutdown(wait=False)
        raise

    async def close() -> None:
        await control.close()
        await asyncio.to_thread(pool.shutdown)
        cache.close()

    return Store(backend=S3Backend(objects.below("tables"), cache, pool), control=control, id=store_id, close=close)


def _checked(objects: Objects, cluster: str) -> str:
    try:
        return preflight.check(objects, cluster)
    except errors.StoreUnavailable as failed:
        if objects.url in failed.message:
            raise
        raise errors.StoreUnavailable(f"{objects.url}: {failed.message}", hint=failed.hint) from failed
    except errors.OutcomeUnknown as failed:
        raise errors.StoreUnavailable(f"{objects.url}: the object store does not answer") from failed


def _cache(folder: Path, limit_bytes: int) -> FileCache:
    try:
        return FileCache.claim(folder, limit_bytes)
    except OSError as error:
        raise disk.from_os_error(error) from error
