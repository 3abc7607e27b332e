"""Which replica commits to which table: the holder of the lease `committers/<table uid>`.

The lease keeps replicas from competing for versions and from compacting, trimming and collecting side by side. Nothing that is stored
depends on it: each commit is a compare-and-set in the log, so a holder that slept and woke is refused there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from millrace.errors import MillraceError
from svc_storage.domain.control.leases import Leases
from svc_storage.ports import Clock, CommitRoute

TTL_MS = 5_000
IDLE_S = 60.0
"""A lease that nothing was committed under for so long is given back: tables at rest cost no renewals."""
PREFIX = "committers/"
_log = logging.getLogger(__name__)


class Leader(Protocol):
    """Who commits to a table."""

    async def holder(self, uid: str, *, fresh: bool = False) -> str:
        """ "" when it is this replica, which takes the lease where it is free or has run out; else where the holder is reached,
        "host:port". `fresh`: what was known before is not believed. Raises what the control store raises."""

    def leads(self, uid: str) -> bool:
        """Without asking anybody."""


class Alone:
    """A store that one process owns: it leads everywhere."""

    async def holder(self, uid: str, *, fresh: bool = False) -> str:
        return ""

    def leads(self, uid: str) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Fleet:
    """This replica among those of one store. `replica`: its own name, unique to the process; "" where it is alone. `route`: to others."""

    leader: Leader = field(default_factory=Alone)
    route: CommitRoute | None = None
    replica: str = ""


@dataclass(slots=True)
class Held:
    """`until_s`, `used_s`, `renewed_s`: monotonic. After `until_s` this replica does not act on the lease any more."""

    epoch: int
    until_s: float
    used_s: float
    renewed_s: float


@dataclass(frozen=True, slots=True)
class _Other:
    address: str
    until_s: float


class Leadership:
    """One replica's leases. `name` is unique to this process, `address` where its peers reach it. Keep `run` running."""

    def __init__(self, leases: Leases, clock: Clock, *, name: str, address: str, ttl_ms: int = TTL_MS) -> None:
        self._leases, self._clock, self._ttl_ms = leases, clock, ttl_ms
        self.name, self._holder = name, f"{name} {address}"
        self._held: dict[str, Held] = {}
        self._others: dict[str, _Other] = {}
        self._guards: dict[str, asyncio.Lock] = {}
        self._closed = False
        self.lost = 0

    async def holder(self, uid: str, *, fresh: bool = False) -> str:
        if (known := self._known(uid, fresh)) is not None:
            return known
        async with self._guards.setdefault(uid, asyncio.Lock()):
            if (known := self._known(uid, False)) is not None and not (fresh and known):
                return known
            return await self._ask(uid)

    def leads(self, uid: str) -> bool:
        held = self._held.get(uid)
        return held is not None and self._clock.monotonic_s() < held.until_s

    def held(self) -> Mapping[str, Held]:
        """By lease name, for GetStatus."""
        return {PREFIX + uid: held for uid, held in self._held.items()}

    def forget(self, uid: str) -> None:
        """The table is gone: its lease runs out by itself."""
        self._held.pop(uid, None)
        self._others.pop(uid, None)
        self._guards.pop(uid, None)

    async def run(self) -> None:
        """Until cancelled: renews what is used, gives back what is idle."""
        while True:
            await asyncio.sleep(self._ttl_ms / 3_000)
            try:
                await self.renew()
            except MillraceError as failed:
                _log.warning("the committers' leases were not renewed: %s", failed.message)

    async def renew(self) -> None:
        """All in one transaction, whatever their number."""
        now_s = self._clock.monotonic_s()
        idle = [uid for uid, held in self._held.items() if now_s - held.used_s > IDLE_S]
        await self._release(idle)
        if not self._held:
            return
        began_s, wanted = self._clock.monotonic_s(), dict(self._held)
        kept = await self._leases.renew_all({PREFIX + uid: held.epoch for uid, held in wanted.items()})
        for uid, held in wanted.items():
            if self._held.get(uid) is not held:
                continue
            if PREFIX + uid in kept:
                held.until_s, held.renewed_s = began_s + self._ttl_ms * 2 / 3_000, began_s
            else:
                _log.info("the lease %s%s went to another replica", PREFIX, uid)
                self.lost += 1
                del self._held[uid]

    async def close(self) -> None:
        """Gives all back: another replica takes over at once."""
        try:
            async with asyncio.timeout(self._ttl_ms / 1_000):
                await self._release(list(self._held))
        except (MillraceError, TimeoutError):
            _log.warning("the committers' leases were not given back; they run out in %d ms", self._ttl_ms)

    def _known(self, uid: str, fresh: bool) -> str | None:
        now_s = self._clock.monotonic_s()
        if (held := self._held.get(uid)) is not None and now_s < held.until_s:
            held.used_s = now_s
            return ""
        other = self._others.get(uid)
        return other.address if other is not None and not fresh and now_s < other.until_s else None

    async def _ask(self, uid: str) -> str:
        began_s = self._clock.monotonic_s()
        row = await self._leases.take(PREFIX + uid, holder=self._holder, ttl_ms=self._ttl_ms)
        if row.holder != self._holder:
            self._held.pop(uid, None)
            address = row.holder.partition(" ")[2]
            self._others[uid] = _Other(address, began_s + self._ttl_ms / 1_000)
            return address or "nowhere"
        self._others.pop(uid, None)
        until_s = began_s + self._ttl_ms * 2 / 3_000
        self._held[uid] = Held(row.epoch, until_s, self._clock.monotonic_s(), began_s)
        return ""

    async def _release(self, uids: Sequence[str]) -> None:
        for uid in uids:
            if (held := self._held.pop(uid, None)) is not None:
                await self._leases.release(PREFIX + uid, held.epoch)
