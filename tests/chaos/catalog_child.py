"""Puts resources `first` to `last`, one request each, and says each number once it was answered. Dies where a failpoint says."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from svc_storage.adapters.clock import SystemClock
from svc_storage.adapters.sqlite.store import SqliteControl
from svc_storage.domain.control.resources import Resources, ResourceWish, StatusUpdate
from svc_storage.ports import Packed, RequestMark


async def main(path: Path, first: int, last: int) -> None:
    store = await SqliteControl.open(path)
    resources = Resources(store, SystemClock())
    for number in range(first, last + 1):
        name = f"namespaces/default/runs/r{number // 2}"
        if number % 2 == 0:
            wish = ResourceWish(name=name, spec=Packed("t", b"x"))
            await resources.put(wish, RequestMark(f"q{number}", "me", "f"))
        else:
            update = StatusUpdate(name=name, events=(Packed("e", str(number).encode()),))
            await resources.update_status(update, RequestMark(f"q{number}", "me", "f"))
        print(number, flush=True)
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
