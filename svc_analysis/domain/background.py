"""Work that outlives the call that began it: it runs as this service, not as whoever asked first."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from contextvars import Context
from typing import Any

from millrace.errors import RetryLater

_FIRST_S, _LONGEST_S = 0.1, 5.0


def start(work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    """A task in an empty context: no caller's token, deadline or trace is carried into it."""
    return asyncio.get_running_loop().create_task(work, name=name, context=Context())


async def stop(task: asyncio.Task[None]) -> None:
    """Cancels and waits, at most 5 s."""
    task.cancel()
    await asyncio.wait({task}, timeout=5.0)


class Pauses:
    """Back-off with full jitter, 0.1 to 5 s."""

    def __init__(self) -> None:
        self._failed = 0

    def worked(self) -> None:
        self._failed = 0

    async def after(self, error: RetryLater) -> None:
        self._failed += 1
        longest = min(_LONGEST_S, _FIRST_S * 2 ** min(self._failed, 10))
        await asyncio.sleep((error.retry_after_ms or 0) / 1000 + random.uniform(0, longest))
