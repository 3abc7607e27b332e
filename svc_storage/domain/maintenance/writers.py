"""Who appends to a table, and how one is forgotten: its epoch stays used up, so that it cannot come back below it."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from millrace import errors
from svc_storage.domain.opened import OpenTable
from svc_storage.domain.writing.writers import MAX_EPOCH, check_writer_id
from svc_storage.ports import Clock, Commit, CommitKind, Version, WriterState


@dataclass(frozen=True, slots=True)
class WriterView:
    """`last_version` 0: older than the log."""

    id: str
    state: WriterState
    last_version: Version
    last_us: int
    streaming: bool


class LiveLeases(Protocol):
    async def is_held(self, lease: str) -> bool:
        """Did its holder renew it within its ttl, as far as this process has seen?"""


def is_deleted(state: WriterState) -> bool:
    """A forgotten writer: nobody owns it, which no other writer is."""
    return not state.owner


def page(table: OpenTable, *, after: str, limit: int) -> Sequence[WriterView]:
    """By id, above `after`."""
    names = sorted(
        name for name, state in table.versions.head.writers.items() if name > after and not is_deleted(state)
    )
    chosen = names[:limit]
    last: dict[str, tuple[Version, int]] = {}
    wanted = set(chosen)
    for found in reversed(table.versions.known_commits()):
        for name in found.commit.writers.keys() & wanted:
            last[name] = (found.version, found.commit.time_us)
            wanted.discard(name)
        if not wanted:
            break
    return [
        WriterView(
            name,
            table.versions.head.writers[name],
            *last.get(name, (0, 0)),
            streaming=table.committer.is_streaming(name),
        )
        for name in chosen
    ]


async def delete(table: OpenTable, writer: str, leases: LiveLeases, clock: Clock) -> int:
    """The epoch that is used up now; the same when it was deleted before. Raises ResourceNotFound, LeaseHeld, FieldInvalid."""
    check_writer_id(writer, field="writer_id")
    state = table.versions.head.writers.get(writer)
    if state is None:
        raise errors.ResourceNotFound(f"`{writer}` never wrote here", field="writer_id", hint="list the writers")
    if is_deleted(state):
        return state.epoch
    if state.lease and await leases.is_held(state.lease):
        raise errors.LeaseHeld(
            f"the lease {state.lease} of `{writer}` is held", field="writer_id", hint="stop it first"
        )
    id = f"forget-{secrets.token_hex(8)}"

    async def turn() -> int:
        if table.committer.is_streaming(writer):
            raise errors.LeaseHeld(f"`{writer}` has an open stream", field="writer_id", hint="end it first")
        done = await table.committer.commit(lambda: _tombstone(table, writer, id, clock.now_us()))
        return done.commit.writers[writer].epoch

    return await table.committer.turn(turn)


def _tombstone(table: OpenTable, writer: str, id: str, now_us: int) -> Commit:
    head = table.versions.head
    state = head.writers[writer]
    gone = WriterState(epoch=min(state.epoch + 1, MAX_EPOCH), next_offset=state.next_offset)
    return Commit(id=id, kind=CommitKind.FENCE, time_us=max(now_us, head.time_us), writers={writer: gone})
