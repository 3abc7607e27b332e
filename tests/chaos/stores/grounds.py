"""The stores under the episodes: their servers, what a storage needs to reach them, and what can befall them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

from tests.chaos.stores.plan import Trouble

DISK_MIB = 24


class Ground(Protocol):
    """`backend`: its name in MILLRACE_STORAGE_BACKEND."""

    backend: str

    def settings(self, home: Path) -> Mapping[str, str]:
        """Environment of a storage, for a store of this episode's own."""

    async def before(self, home: Path) -> None: ...

    async def trouble(self, trouble: Trouble) -> None:
        """Returns when it is over and the store is as before."""

    async def after(self, home: Path) -> None: ...


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
        self._mounted = await _run("mount", "-t", "tmpfs", "-o", size, "tmpfs", str(self._data)) == 0

    async def trouble(self, trouble: Trouble) -> None:
        """ "full disk": a file takes all the room there is."""
        assert trouble.what == "full disk"
        assert self._data is not None
        if not self._mounted:
            raise RuntimeError("a full disk needs the right to mount one (root)")
        filler = self._data / f"filler-{trouble.at_s}"
        with filler.open("wb") as file:
            try:
                while True:
                    file.write(b"\0" * 65536)
                    file.flush()
            except OSError:
                pass
        await asyncio.sleep(trouble.seconds)
        os.unlink(filler)

    async def after(self, home: Path) -> None:
        if self._mounted:
            await _run("umount", "-l", str(self._data))
            self._mounted = False


async def _run(*command: str) -> int:
    """Its exit code; what it says is nobody's."""
    nothing = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*command, stdin=nothing, stdout=nothing, stderr=nothing)
    return await process.wait()


@asynccontextmanager
async def _local() -> AsyncIterator[Ground]:
    yield Local()


GROUNDS: Mapping[str, Callable[[], AbstractAsyncContextManager[Ground]]] = {"local": _local}
