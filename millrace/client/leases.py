"""Holds a lease: acquired, renewed at a third of its time, given up at two thirds without a renewal, by the monotonic clock.

Time only gives liveness. What keeps two holders from writing is the epoch, which storage checks in each commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from millrace import errors
from millrace.client import status
from millrace.client.channel import LEASE_DEADLINE_S, Connection, call
from millrace.client.resources import new_request_id
from millrace.storage.v1 import leases_pb2 as pb
from millrace.storage.v1 import leases_pb2_grpc

_log = logging.getLogger(__name__)
_NEVER = float("-inf")


class LeaseKeeper:
    """One lease. `async with LeaseKeeper(connection, name, holder, ttl_s=15) as lease:` takes it (LeaseHeld when another has it), keeps it,
    and gives it back. Whoever works under it looks at `held` before each step, or waits for `lost`; `on_lost` is called once."""

    def __init__(
        self,
        connection: Connection,
        name: str,
        holder: str,
        *,
        ttl_s: float = 15.0,
        on_lost: Callable[[errors.MillraceError], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection, self._name, self._holder, self._ttl_s = connection, name, holder, ttl_s
        self._on_lost, self._clock = on_lost, clock
        self._stub = leases_pb2_grpc.LeaseServiceStub(connection.channel)
        self._epoch = 0
        self._renewed = _NEVER
        self._renewer: asyncio.Task[None] | None = None
        self._gone = asyncio.Event()
        self._why: errors.MillraceError | None = None

    @property
    def name(self) -> str:
        return self._name

    @property
    def epoch(self) -> int:
        """The epoch of this holding; 0 before it was taken."""
        return self._epoch

    @property
    def renewed_at(self) -> float:
        """When the last renewal that succeeded was asked for, by the clock given (monotonic seconds)."""
        return self._renewed

    @property
    def held(self) -> bool:
        """True while work may go on: the last renewal was asked for less than two thirds of the ttl ago, and none was refused."""
        return not self._gone.is_set() and self._clock() - self._renewed < self._ttl_s * 2 / 3

    def check(self) -> None:
        """Raises LeaseLost unless held."""
        if not self.held:
            raise self._why or errors.LeaseLost(f"the lease `{self._name}` was not renewed in time")

    async def lost(self) -> errors.MillraceError:
        """Waits until it is lost, and says why."""
        await self._gone.wait()
        return self._why or errors.LeaseLost(f"the lease `{self._name}` was given back")

    async def acquire(self, *, wait: bool = False) -> int:
        """Takes the lease and begins to renew it; returns the epoch. `wait`: asks again while another holds it. Raises LeaseHeld."""
        request = pb.AcquireLeaseRequest(request_id=new_request_id(), name=self._name, holder=self._holder)
        request.ttl.FromMilliseconds(round(self._ttl_s * 1000))
        while True:
            asked = self._clock()
            try:
                answer = await call(
                    self._connection,
                    self._stub.AcquireLease,
                    request,
                    deadline_s=LEASE_DEADLINE_S,
                    answer=pb.AcquireLeaseResponse,
                )
            except errors.LeaseHeld as error:
                if not wait:
                    raise
                await asyncio.sleep((error.retry_after_ms or 1_000) / 1_000)
                continue
            break
        self._epoch, self._renewed = answer.lease.epoch, asked
        self._gone.clear()
        self._why = None
        self._renewer = asyncio.create_task(self._keep(), name=f"lease {self._name}")
        return self._epoch

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(
                self._ttl_s / 3 if self._clock() - self._renewed < self._ttl_s / 3 else self._ttl_s / 30
            )
            if not self.held:
                self._lose(errors.LeaseLost(f"the lease `{self._name}` could not be renewed in time"))
                return
            asked = self._clock()
            try:
                await self._renew(max(0.1, self._renewed + self._ttl_s * 2 / 3 - asked))
            except errors.LeaseLost as error:
                self._lose(error)
                return
            except Exception as error:
                # Tried again until two thirds of the ttl are over; then it is lost, above. Nothing may end this task silently.
                _log.info("the lease %s was not renewed: %s", self._name, error)
                continue
            self._renewed = asked

    async def _renew(self, left_s: float) -> None:
        request = pb.RenewLeaseRequest(name=self._name, epoch=self._epoch)
        awaited = self._stub.RenewLease(
            request, metadata=self._connection.metadata(), timeout=min(LEASE_DEADLINE_S, left_s)
        )
        try:
            await status.raising(awaited)
        except status.CALL_ERRORS as error:
            raise status.error_of(error) from error

    def _lose(self, why: errors.MillraceError) -> None:
        self._why = why
        self._gone.set()
        if self._on_lost is not None:
            self._on_lost(why)

    async def release(self) -> None:
        """Stops renewing and gives the lease back, if storage can be reached; else it runs out by itself. Safe to repeat."""
        renewer, self._renewer = self._renewer, None
        if renewer is None:
            return
        renewer.cancel()
        await asyncio.wait({renewer}, timeout=1.0)
        was_held = self.held
        self._gone.set()
        if was_held:
            request = pb.ReleaseLeaseRequest(name=self._name, epoch=self._epoch)
            with contextlib.suppress(errors.MillraceError):
                await call(
                    self._connection,
                    self._stub.ReleaseLease,
                    request,
                    deadline_s=LEASE_DEADLINE_S,
                    answer=pb.ReleaseLeaseResponse,
                    tries=2,
                )

    async def __aenter__(self) -> Self:
        await self.acquire()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.shield(self.release())
