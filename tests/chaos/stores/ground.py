"""What an episode needs of the store under it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from tests.chaos.stores.plan import Trouble


class Ground(Protocol):
    """`backend`: its name in MILLRACE_STORAGE_BACKEND."""

    backend: str

    def settings(self, home: Path) -> Mapping[str, str]:
        """Environment of a storage, for a store of this episode's own."""

    async def before(self, home: Path) -> None: ...

    async def trouble(self, trouble: Trouble) -> None:
        """Returns when it is over and the store is as before."""

    async def after(self, home: Path) -> None: ...


async def run(*command: str) -> int:
    """Its exit code; what it says is nobody's."""
    nothing = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*command, stdin=nothing, stdout=nothing, stderr=nothing)
    return await process.wait()
