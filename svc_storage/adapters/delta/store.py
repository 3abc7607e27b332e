"""A store in a data folder: tables as Delta Lake below `tables/`, the rest in `catalog.sqlite`."""

from __future__ import annotations

from concurrent.futures import Executor
from pathlib import Path

from svc_storage.adapters.datadir import DataFolder
from svc_storage.adapters.delta.backend import DeltaBackend
from svc_storage.adapters.sqlite.store import SqliteControl
from svc_storage.ports import Store


async def open_local(data_dir: Path, pool: Executor) -> Store:
    """Makes the folder when it is missing. Raises StoreUnavailable when another process has it or the catalog cannot be used."""
    folder = DataFolder.claim(data_dir)
    control = await SqliteControl.open(folder.catalog)

    async def close() -> None:
        await control.close()
        await folder.release()

    return Store(backend=DeltaBackend(folder.tables, pool), control=control, id=folder.store_id, close=close)
