"""Snapshots of the state, and the trimming of what they cover. Any replica may do it; the one that put every so-many-th entry does."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from millrace.errors import MillraceError
from millrace.failpoints import failpoint
from svc_storage.adapters.control_log.codec import encode_snapshot
from svc_storage.adapters.control_log.entries import Entries
from svc_storage.adapters.control_log.replica import Replica, now
from svc_storage.adapters.control_log.state import Frozen

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KeepingPolicy:
    """A snapshot after `entries` entries, once they carry half as much as the last snapshot, and in any case after `at_most`."""

    entries: int = 1_000
    at_most: int = 20_000
    trim_after_s: float = 3_600.0
    """Seen for so long by the one that trims. The same for all replicas."""

    @property
    def silence_s(self) -> float:
        """What a replica may not have talked with the log for before it doubts it: see `replica.py`."""
        return self.trim_after_s / 12


class Keeping:
    def __init__(
        self, entries: Entries, policy: KeepingPolicy, *, rising: Callable[[], float] = lambda: now()[0]
    ) -> None:
        self._entries, self._policy, self._rising = entries, policy, rising
        self._task: asyncio.Task[None] | None = None
        self._last_bytes = 0

    def consider(self, replica: Replica) -> None:
        """After an entry of this replica; `replica.state` is clean."""
        since = replica.head - replica.snapshot
        every = self._policy.entries
        heavy = replica.bytes_since * 2 >= self._last_bytes or since >= self._policy.at_most
        if since < every or replica.head % max(1, every // 8) or not heavy:
            return
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._keep(replica, replica.head, replica.state.freeze()))

    async def close(self) -> None:
        if self._task is not None:
            await self._task

    async def _keep(self, replica: Replica, n: int, state: Frozen) -> None:
        started = time.perf_counter()
        try:
            known = await self._entries.snapshots()
            if known and known[-1] > replica.snapshot:  # another replica was first
                replica.snapshot, replica.bytes_since = known[-1], 0
                return
            data = await asyncio.to_thread(encode_snapshot, state)
            failpoint("storage.before_control_snapshot")
            await self._entries.put_snapshot(n, data)
            failpoint("storage.after_control_snapshot")
            replica.snapshot, replica.bytes_since, self._last_bytes = n, 0, len(data)
            _log.info("control snapshot %d: %d bytes in %.2f s", n, len(data), time.perf_counter() - started)
            await self._trim(replica, [*known, n])
        except MillraceError as failed:
            _log.warning("the control log was not shortened: %s", failed.message)
        except Exception:
            _log.exception("the control log was not shortened")

    async def _trim(self, replica: Replica, snapshots: list[int]) -> None:
        """The newest two snapshots stay, and every entry after the older one: whoever just began to read it gets on."""
        seen_long = [head for when, head in replica.ages if self._rising() - when >= self._policy.trim_after_s]
        if len(snapshots) < 2 or not seen_long:
            return
        below = min(snapshots[-2], seen_long[-1]) + 1
        await self._entries.trim(below, snapshots_below=snapshots[-2])
        failpoint("storage.after_control_trim")
