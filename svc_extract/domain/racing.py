"""Tasks that belong together: the first one to fail, or the main one's end, ends all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable


async def first_failure(main: Awaitable[None], *others: Awaitable[None]) -> None:
    """Waits for `main`. Raises at once what any of them raises; when `main` ends, the others are cancelled.

    The last of `others` may end first without a failure: then `main` is cancelled too (a stream that should end)."""
    tasks = [asyncio.ensure_future(one) for one in (main, *others)]
    try:
        while not tasks[0].done() and not tasks[-1].done():
            await asyncio.wait([task for task in tasks if not task.done()], return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done() and not task.cancelled():
                    task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
