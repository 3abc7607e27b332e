"""A replica over the bucket's control log; dies or stops where a failpoint says.

`put FIRST LAST`: puts resources `first` to `last`, one request each, and says each number once it was answered.
`hold`: takes the lease, renews it in time, and appends an event under it again and again until that is refused. Says what happens.
`take`: waits for the lease until it may be had, then appends events under it.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time

from millrace.errors import LeaseHeld, LeaseLost
from svc_storage.adapters.clock import SystemClock
from svc_storage.adapters.control_log.keeping import KeepingPolicy
from svc_storage.adapters.control_log.store import LogControl
from svc_storage.adapters.s3.credentials import Credentials
from svc_storage.adapters.s3.entries import S3Entries
from svc_storage.adapters.s3.objects import Address, Objects
from svc_storage.domain.control.leases import Leases
from svc_storage.domain.control.resources import Resources, ResourceWish, StatusUpdate
from svc_storage.ports import Packed, RequestMark

LEASE, RUN = "sources/a", "namespaces/default/runs/held"
TTL_MS = 5_000
SMALL = KeepingPolicy(entries=8, at_most=8, trim_after_s=0.6)


class Clock(SystemClock):
    """Its wall time is `TEST_CLOCK_AHEAD_S` before what the process believes."""

    def now_us(self) -> int:
        return super().now_us() + int(os.environ.get("TEST_CLOCK_AHEAD_S", "0")) * 1_000_000


async def opened() -> LogControl:
    bucket, prefix, endpoint = os.environ["TEST_BUCKET"].split(" ")
    credentials = Credentials("env:KEY", "env:SECRET", environment=os.environ)
    objects = Objects(Address(bucket, prefix, endpoint, allow_http=True), credentials)
    return await LogControl.open(S3Entries(objects.below("control")), policy=SMALL)


async def put(first: int, last: int) -> None:
    store = await opened()
    resources = Resources(store, Clock())
    for number in range(first, last + 1):
        name = f"namespaces/default/runs/r{number // 2}"
        if number % 2 == 0:
            await resources.put(ResourceWish(name=name, spec=Packed("t", b"x")), RequestMark(f"q{number}", "me", "f"))
        else:
            update = StatusUpdate(name=name, events=(Packed("e", str(number).encode()),))
            await resources.update_status(update, RequestMark(f"q{number}", "me", "f"))
        print(number, flush=True)
    await store.close()


async def hold(me: str) -> None:
    """As LeaseKeeper: stops at two thirds of the ttl after its last renewal began, by its own monotonic clock, unless it is told at
    once not to (`stubborn`): then only the epoch is between it and the commit."""
    store = await opened()
    leases, resources = Leases(store, Clock()), Resources(store, Clock())
    row = await leases.acquire(LEASE, holder=me, ttl_ms=TTL_MS, request=RequestMark(f"{me} takes", me, "f"))
    print("holds", row.epoch, flush=True)
    for number in range(10_000):
        if number % 10 == 0 and me != "stubborn":
            await leases.renew(LEASE, row.epoch)
        await act(resources, me, number, row.epoch)
        await asyncio.sleep(0.1)


async def take(me: str) -> None:
    store = await opened()
    leases, resources = Leases(store, Clock()), Resources(store, Clock())
    began = time.monotonic()
    with store.watched():
        for number in range(10_000):
            try:
                mark = RequestMark(f"{me} takes {number}", me, "f")
                row = await leases.acquire(LEASE, holder=me, ttl_ms=TTL_MS, request=mark)
                break
            except LeaseHeld as held:
                print("waits", held.retry_after_ms, flush=True)
                await asyncio.sleep(min(0.2, (held.retry_after_ms or 0) / 1_000))
    print("took", row.epoch, f"{time.monotonic() - began:.2f}", flush=True)
    for number in range(5):
        await act(resources, me, number, row.epoch)
    await store.close()


async def act(resources: Resources, me: str, number: int, epoch: int) -> None:
    event = Packed("e", f"{me} {epoch} {number}".encode())
    update = StatusUpdate(name=RUN, events=(event,), lease=LEASE, lease_epoch=epoch)
    try:
        await resources.update_status(update, RequestMark(f"{me} {number}", me, "f"))
    except LeaseLost:
        print("refused", epoch, flush=True)
        raise SystemExit(3) from None
    print("did", number, flush=True)


if __name__ == "__main__":
    kind, *rest = sys.argv[1:]
    if kind == "put":
        asyncio.run(put(int(rest[0]), int(rest[1])))
    else:
        asyncio.run({"hold": hold, "take": take}[kind](rest[0]))
