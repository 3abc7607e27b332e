"""A disk under the episodes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from tests.chaos.stores.ground import run
from tests.chaos.stores.plan import Trouble

DISK_MIB = 24


class Local:
    """A small disk of its own where the machine lets us mount one, so that it can be full."""

    backend = "local"

    def __init__(self) -> None:
        self._data: Path | None = None
        self._mounted = False

    def settings(self, home: Path) -> Mapping[str, str]:
        return {}

    async def before(self, home: Path) -> None:
        self._data = home / "data"
        self._data.mkdir(exist_ok=True)
        size = f"size={DISK_MIB}m,mode=700"
        self._mounted = await run("mount", "-t", "tmpfs", "-o", size, "tmpfs", str(self._data)) == 0

    async def trouble(self, trouble: Trouble) -> None:
        """ "full disk": a file takes all the room there is."""
        assert trouble.what == "full disk"
        assert self._data is not None
        if not self._mounted:
            raise RuntimeError("a full disk needs the right to mount one (root)")
        filler = self._data / f"filler-{trouble.at_s}"
        with contextlib.suppress(OSError), filler.open("wb") as file:  # full already, when two troubles meet
            while True:
                file.write(b"\0" * 65536)
                file.flush()
        await asyncio.sleep(trouble.seconds)
        filler.unlink(missing_ok=True)

    async def after(self, home: Path) -> None:
        if self._mounted:
            await run("umount", "-l", str(self._data))
            self._mounted = False


@asynccontextmanager
async def disk() -> AsyncIterator[Local]:
    yield Local()
