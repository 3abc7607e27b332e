"""Resources: a wish (spec), an observation (status), events. One revision counts all changes; every change is a commit."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TypeVar

from millrace.errors import EtagMismatch, FieldInvalid, LeaseLost, ResourceExists
from svc_storage.domain.control.changes import RecentChanges, ResourceChange
from svc_storage.domain.control.requests import answered, keep_answer
from svc_storage.domain.control.resource_codec import decode_resource, encode_resource
from svc_storage.domain.control.resource_names import Selection, check_name, missing
from svc_storage.ports import (
    Clock,
    ControlStore,
    ControlTransaction,
    Packed,
    RequestMark,
    Resource,
    ResourceEvent,
)

T = TypeVar("T")

MAX_PACKED_BYTES = 1 << 20
MAX_EVENT_BYTES = 64 << 10
KEPT_EVENTS = 1_000
KEPT_DELETIONS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceWish:
    """What PutResource asks. `etag` "": it must not exist yet, unless `overwrite`. `status` counts only at creation."""

    name: str
    spec: Packed
    status: Packed | None = None
    etag: str = ""
    overwrite: bool = False
    owner: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusUpdate:
    """`status` None: keep it. `lease` "": not checked. `uid` "": any."""

    name: str
    status: Packed | None = None
    events: tuple[Packed, ...] = ()
    lease: str = ""
    lease_epoch: int = 0
    uid: str = ""


class Resources:
    def __init__(self, store: ControlStore, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self._running: set[asyncio.Task[object]] = set()
        self.recent = RecentChanges()
        store.tell(self.recent.hear)

    def watched(self) -> AbstractContextManager[None]:
        """While it is entered, `recent` hears what other processes change."""
        return self._store.watched()

    async def put(self, wish: ResourceWish, request: RequestMark) -> tuple[Resource, bool]:
        """The resource as stored, and whether it is new. Raises EtagMismatch, ResourceExists, RequestIdReused, the
        collection's not-found when an etag was given for what does not exist."""
        check_name(wish.name, field="resource.name")
        _check_size(wish.spec, "resource.spec")
        _check_size(wish.status, "resource.status")
        now_us = self._clock.now_us()

        def work(tx: ControlTransaction) -> tuple[Resource, bool]:
            if (before := answered(tx, request, now_us)) is not None:
                resource = decode_resource(before)
                return resource, resource.generation == 1
            old = tx.resource(wish.name)
            _check_etag(wish, old)
            new = _replaced(old, wish, now_us) if old else _created(wish, now_us)
            new = replace(new, revision=tx.revision() + 1)
            tx.put_resource(new)
            keep_answer(tx, request, encode_resource(new), now_us)
            return new, old is None

        return await self._commit(work)

    async def update_status(self, update: StatusUpdate, request: RequestMark) -> Resource:
        """Raises the collection's not-found (also for another uid), LeaseLost, RequestIdReused."""
        check_name(update.name)
        _check_size(update.status, "status")
        for index, event in enumerate(update.events):
            _check_size(event, f"append_events[{index}]", MAX_EVENT_BYTES)
        if len(update.events) > KEPT_EVENTS:
            raise FieldInvalid(f"at most {KEPT_EVENTS} events at once", field="append_events")
        now_us = self._clock.now_us()

        def work(tx: ControlTransaction) -> Resource:
            if (before := answered(tx, request, now_us)) is not None:
                return decode_resource(before)
            old = tx.resource(update.name)
            if old is None or update.uid not in ("", old.uid):
                raise missing(update.name)
            _check_lease(tx, update.lease, update.lease_epoch)
            first = old.last_event + 1
            events = [ResourceEvent(first + i, now_us, event) for i, event in enumerate(update.events)]
            new = replace(
                old,
                revision=tx.revision() + 1,
                status=update.status or old.status,
                updated_us=now_us,
                last_event=old.last_event + len(events),
            )
            tx.put_resource(new)
            if events:
                tx.append_events(old.uid, events, keep=KEPT_EVENTS)
            keep_answer(tx, request, encode_resource(new), now_us)
            return new

        return await self._commit(work)

    async def delete(self, name: str, *, etag: str, request: RequestMark) -> None:
        """`etag` "": any. Raises the collection's not-found, EtagMismatch, RequestIdReused."""
        check_name(name)
        now_us = self._clock.now_us()

        def work(tx: ControlTransaction) -> None:
            if answered(tx, request, now_us) is not None:
                return
            old = tx.resource(name)
            if old is None:
                raise missing(name)
            if etag not in ("", old.etag):
                raise _etag_mismatch()
            last = replace(old, revision=tx.revision() + 1, updated_us=now_us)
            tx.remove_resource(last, keep=KEPT_DELETIONS)
            keep_answer(tx, request, encode_resource(last), now_us)

        await self._commit(work)

    async def forget(self, name: str, *, unmoved_since_us: int) -> bool:
        """Deletes it unless it changed at or after that time; False when it did, or is gone. For expiry: no request, no answer."""

        def work(tx: ControlTransaction) -> bool:
            old = tx.resource(name)
            if old is None or old.updated_us >= unmoved_since_us:
                return False
            last = replace(old, revision=tx.revision() + 1)
            tx.remove_resource(last, keep=KEPT_DELETIONS)
            return True

        return await self._commit(work)

    async def get(self, name: str, *, events_after: int | None = None) -> tuple[Resource, Sequence[ResourceEvent]]:
        """With the events after a sequence, oldest first, at most 1,000; None: no events. Raises the collection's not-found."""
        check_name(name)

        def work(tx: ControlTransaction) -> tuple[Resource, Sequence[ResourceEvent]]:
            found = tx.resource(name)
            if found is None:
                raise missing(name)
            if events_after is None:
                return found, ()
            return found, tx.events(found.uid, after=events_after, limit=KEPT_EVENTS)

        return await self._store.run(work)

    async def page(self, what: Selection, *, after_name: str, limit: int) -> tuple[Sequence[Resource], int]:
        """By name, and the revision at which this was true. `what.id` is ignored."""
        return await self._store.run(
            lambda tx: (
                tx.resources(what.collection, what.namespace, after_name=after_name, limit=limit),
                tx.revision(),
            )
        )

    async def changed_after(self, revision: int, *, limit: int) -> tuple[int, int, Sequence[ResourceChange]]:
        """(horizon, newest revision, changes after `revision` in order)."""
        if (recent := self.recent.after(revision)) is not None:
            return 0, self.recent.level.value, recent[:limit]

        def work(tx: ControlTransaction) -> tuple[int, int, Sequence[ResourceChange]]:
            changes = [ResourceChange(there, resource) for there, resource in tx.changed_after(revision, limit)]
            return tx.horizon(), tx.revision(), changes

        return await self._store.run(work)

    async def _commit(self, work: Callable[[ControlTransaction], T]) -> T:
        """Runs `work` to its end, even when the caller goes away in between."""
        task = asyncio.ensure_future(self._store.run(work))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # also when the caller went away
        return await asyncio.shield(task)


def _created(wish: ResourceWish, now_us: int) -> Resource:
    return Resource(
        name=wish.name,
        uid=uuid.uuid4().hex,
        revision=0,
        generation=1,
        spec=wish.spec,
        status=wish.status,
        created_us=now_us,
        updated_us=now_us,
        owner=wish.owner,
    )


def _replaced(old: Resource, wish: ResourceWish, now_us: int) -> Resource:
    return replace(old, generation=old.generation + 1, spec=wish.spec, updated_us=now_us)


def _check_etag(wish: ResourceWish, old: Resource | None) -> None:
    if old is None:
        if wish.etag:
            raise missing(wish.name)
    elif wish.etag:
        if wish.etag != old.etag:
            raise _etag_mismatch()
    elif not wish.overwrite:
        raise ResourceExists(f"`{wish.name}` exists", field="resource.name", hint="give its etag to change it")


def _etag_mismatch() -> EtagMismatch:
    return EtagMismatch(
        "it was changed meanwhile", field="etag", hint="get it, apply the change again, send the new etag"
    )


def _check_lease(tx: ControlTransaction, lease: str, epoch: int) -> None:
    if not lease:
        return
    held = tx.lease(lease)
    if held is None or epoch < 1 or held.epoch != epoch:
        raise LeaseLost(
            f"the lease `{lease}` has another epoch", field="lease_epoch", hint="stop: another holder works on it"
        )


def _check_size(packed: Packed | None, field: str, limit: int = MAX_PACKED_BYTES) -> None:
    if packed is not None and len(packed.value) > limit:
        raise FieldInvalid(f"{len(packed.value)} bytes; at most {limit}", field=field)
