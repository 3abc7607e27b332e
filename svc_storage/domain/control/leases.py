"""Leases. Time gives liveness: a lease that nobody renews can be taken. Safety is the epoch, checked in every commit.

No wall clock is compared with another: a lease has run out when its (epoch, renewals) stayed unchanged for its ttl on
this process's monotonic clock. After a restart every lease therefore gets its whole ttl once more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace

from millrace.errors import FieldInvalid, LeaseHeld, LeaseLost
from svc_storage.domain.control.requests import answered, keep_answer
from svc_storage.ports import Clock, ControlNews, ControlStore, ControlTransaction, LeaseRow, RequestMark

TTL_MS = (5_000, 60_000)
MAX_EPOCH = 2**23 - 1
_NAME = re.compile(r"[A-Za-z0-9._/-]{1,256}")


@dataclass(frozen=True, slots=True)
class _Sight:
    """What was seen of a lease, and when this form of it was seen first (monotonic seconds)."""

    epoch: int
    renewals: int
    since_s: float


@dataclass(frozen=True, slots=True)
class LeaseSight:
    """A lease as this process sees it. `holder`: of now, or the last one known; `silent_ms`: since its last renewal was seen."""

    holder: str
    epoch: int
    held: bool
    silent_ms: int


class Leases:
    """Call `start` once before use. Is also the committer's `LeaseCheck`."""

    def __init__(self, store: ControlStore, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self._seen: dict[str, _Sight] = {}
        store.tell(self._hear)

    async def start(self) -> None:
        for lease in await self._store.run(lambda tx: tx.leases()):
            self._see(lease)

    async def acquire(self, name: str, *, holder: str, ttl_ms: int, request: RequestMark) -> LeaseRow:
        """Raises LeaseHeld (with the time until it may run out) while another holds it, RequestIdReused, FieldInvalid.

        The same holder gets it at once, under a new epoch: whoever held the old one is out."""
        _check(name, holder, ttl_ms)
        run_out = await self._run_out(name)
        now_us = self._clock.now_us()

        def work(tx: ControlTransaction) -> LeaseRow:
            row = tx.lease(name) or LeaseRow(name)
            before = answered(tx, request, now_us)
            if before is not None and row.holder and row.epoch == int(before):
                return row
            if row.holder not in ("", holder) and (row.epoch, row.renewals) != run_out:
                raise self._held(row)
            epoch = max(row.epoch, row.floor) + 1
            if epoch > MAX_EPOCH:
                raise FieldInvalid(f"the lease `{name}` has used up its epochs", field="name")
            row = replace(row, holder=holder, epoch=epoch, renewals=0, ttl_ms=ttl_ms)
            tx.put_lease(row)
            keep_answer(tx, request, str(epoch).encode(), now_us)
            return row

        return self._see(await self._store.run(work))

    async def take(self, name: str, *, holder: str, ttl_ms: int) -> LeaseRow:
        """For this process itself: the lease, under a new epoch where it was free or had run out, prolonged where `holder` has it, and
        as it is where another holds it."""
        run_out = await self._run_out(name)

        def work(tx: ControlTransaction) -> LeaseRow:
            row = tx.lease(name) or LeaseRow(name)
            if row.holder == holder:
                row = replace(row, renewals=row.renewals + 1)
            elif row.holder and (row.epoch, row.renewals) != run_out:
                return row
            else:
                row = replace(row, holder=holder, epoch=max(row.epoch, row.floor) + 1, renewals=0, ttl_ms=ttl_ms)
            tx.put_lease(row)
            return row

        return self._see(await self._store.run(work))

    async def renew_all(self, epochs: Mapping[str, int]) -> Set[str]:
        """Prolongs this process's leases in one transaction; the names of those that are still its own."""

        def work(tx: ControlTransaction) -> Sequence[LeaseRow]:
            kept = []
            for name, epoch in epochs.items():
                row = tx.lease(name)
                if row is not None and row.holder and row.epoch == epoch:
                    kept.append(replace(row, renewals=row.renewals + 1))
                    tx.put_lease(kept[-1])
            return kept

        return {self._see(row).name for row in await self._store.run(work)}

    async def renew(self, name: str, epoch: int) -> LeaseRow:
        """Its ttl starts again, also when it had run out and nobody took it. Raises LeaseLost."""

        def change(row: LeaseRow) -> LeaseRow:
            if not row.holder or row.epoch != epoch:
                raise LeaseLost(
                    f"the lease `{name}` has another epoch", field="epoch", hint="stop: another holder works on it"
                )
            return replace(row, renewals=row.renewals + 1)

        return self._see(await self._change(name, change))

    async def release(self, name: str, epoch: int) -> None:
        """Free at once; the epoch stays known. One that is not current is released already."""
        self._see(await self._change(name, lambda row: replace(row, holder="") if row.epoch == epoch else row))

    async def current_epoch(self, lease: str) -> int:
        """The newest epoch ever granted, 0 when none was."""
        row = await self._store.run(lambda tx: tx.lease(lease))
        return 0 if row is None else row.epoch

    async def is_held(self, name: str) -> bool:
        """Did its holder renew it within its ttl, as far as this process has seen?"""
        return (await self.sight(name)).held

    async def sight(self, name: str) -> LeaseSight:
        """Who has it, and whether they still renew it."""
        run_out = await self._run_out(name)
        row = await self._store.run(lambda tx: tx.lease(name))
        if row is None:
            return LeaseSight("", 0, held=False, silent_ms=0)
        sight = self._seen.get(name)
        silent_ms = 0 if sight is None else int((self._clock.monotonic_s() - sight.since_s) * 1_000)
        held = bool(row.holder) and (row.epoch, row.renewals) != run_out
        return LeaseSight(row.holder, row.epoch, held=held, silent_ms=silent_ms)

    async def raise_floor(self, lease: str, epoch: int) -> None:
        """The next Acquire gets more than `epoch`: a writer bound to the lease has taken it."""
        await self._change(lease, lambda row: replace(row, floor=max(row.floor, epoch)))

    def expires_us(self, lease: LeaseRow) -> int:
        """By the wall clock, for people. In the past when it may be taken."""
        sight = self._seen.get(lease.name)
        held_s = 0.0 if sight is None else self._clock.monotonic_s() - sight.since_s
        return self._clock.now_us() + lease.ttl_ms * 1_000 - int(held_s * 1e6)

    def _hear(self, news: ControlNews) -> None:
        """Renewals elsewhere count from when they were met here."""
        for lease in news.leases:
            self._see(lease)

    async def _change(self, name: str, change: Callable[[LeaseRow], LeaseRow]) -> LeaseRow:
        def work(tx: ControlTransaction) -> LeaseRow:
            old = tx.lease(name) or LeaseRow(name)
            new = change(old)
            if new != old:
                tx.put_lease(new)
            return new

        return await self._store.run(work)

    def _see(self, row: LeaseRow) -> LeaseRow:
        sight = self._seen.get(row.name)
        if sight is None or (sight.epoch, sight.renewals) < (row.epoch, row.renewals):
            self._seen[row.name] = _Sight(row.epoch, row.renewals, self._clock.monotonic_s())
        return row

    async def _run_out(self, name: str) -> tuple[int, int] | None:
        """The (epoch, renewals) that stayed for a whole ttl, if the lease is in such a state."""
        row = await self._store.run(lambda tx: tx.lease(name))
        if row is None:
            return None
        self._see(row)
        sight = self._seen[name]
        elapsed_ms = (self._clock.monotonic_s() - sight.since_s) * 1_000
        return (sight.epoch, sight.renewals) if elapsed_ms >= row.ttl_ms else None

    def _held(self, row: LeaseRow) -> LeaseHeld:
        sight = self._seen.get(row.name)
        elapsed_ms = 0 if sight is None else int((self._clock.monotonic_s() - sight.since_s) * 1_000)
        return LeaseHeld(
            f"another holder has the lease `{row.name}`",
            field="name",
            retry_after_ms=max(100, row.ttl_ms - elapsed_ms),
            metadata={"epoch": str(row.epoch)},
        )


def _check(name: str, holder: str, ttl_ms: int) -> None:
    if not _NAME.fullmatch(name):
        raise FieldInvalid("a lease's name has at most 256 of `[A-Za-z0-9._/-]`", field="name")
    if not 1 <= len(holder) <= 256:
        raise FieldInvalid("a holder has 1 to 256 characters", field="holder")
    if not TTL_MS[0] <= ttl_ms <= TTL_MS[1]:
        raise FieldInvalid("a ttl is 5 to 60 s", field="ttl")
