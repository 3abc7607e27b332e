"""A store in memory: gone with the process."""

from __future__ import annotations

import uuid

from svc_storage.adapters.memory.backend import MemoryBackend
from svc_storage.adapters.memory.control import MemoryControl
from svc_storage.ports import Store


async def open_memory() -> Store:
    control = MemoryControl()
    return Store(backend=MemoryBackend(), control=control, id=uuid.uuid4().hex, close=control.close)
