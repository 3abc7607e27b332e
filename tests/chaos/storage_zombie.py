"""A writer is stopped, another takes its place, the first wakes up and writes on. Ends 0 when the first is refused, 1 when not.

python -m tests.chaos.storage_zombie FOLDER [PLANTED_BUG]
"""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from millrace import errors
from tests.chaos.planted import plant
from tests.contract.storage.backends import BACKENDS, Rig, ids, incoming


async def work(folder: Path) -> int:
    pool = ThreadPoolExecutor(2)
    async with BACKENDS["local"](folder, pool) as backend:
        return await _one_stops(Rig(folder, backend, pool))


async def _one_stops(rig: Rig) -> int:
    table = await rig.create()
    stopped = await rig.open()
    await stopped.append(incoming(0, 20))
    await stopped.settle()
    successor = await rig.open()
    try:
        async with asyncio.timeout(10):
            await stopped.append(incoming(20, 5))
            await stopped.settle()
    except errors.WriterFenced:
        await successor.append(incoming(20, 20))
        await successor.finish()
        return 0 if ids(table) == list(range(40)) else 1
    return 1


if __name__ == "__main__":
    if len(sys.argv) > 2:
        plant(sys.argv[2])
    raise SystemExit(asyncio.run(work(Path(sys.argv[1]))))
