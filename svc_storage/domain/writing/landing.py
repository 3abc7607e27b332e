"""How a commit of this replica gets into the table's log: appended here where this replica leads, else through the one that does.

Whatever happens to the holder, to the answer or to the lease, what is in the log decides: a proposal without an answer is looked for
there by its id, and proposed again under the same id, so that it lands once.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Mapping
from dataclasses import replace

from millrace import errors
from svc_storage.domain.control.leadership import Leader
from svc_storage.domain.versions import LogView
from svc_storage.domain.writing.following import Following
from svc_storage.ports import (
    MERGED,
    Clock,
    Commit,
    CommitKind,
    CommitLog,
    CommitRoute,
    Committed,
    LogTrimmed,
    Proposal,
    Snapshot,
    TableRow,
    Version,
    VersionTaken,
    WriterPlace,
    WriterState,
)

RESOLVE_S = 30.0
"""How long an outcome is looked for before it is COMMIT_UNKNOWN."""
UNREACHED_S = 10.0
"""A holder that renews its lease and cannot be reached for so long is passed by: the log decides."""
LOOK_S = 1.0
_PAUSE_S = (0.1, 0.3)
WHOLE = (CommitKind.MERGE, CommitKind.RESTORE, CommitKind.SCHEMA)
"""Kinds that were decided on the whole of a version: on another one they are decided anew."""


class Landing:
    """`unsure`: the outcome of the last commit is not known yet; look at the log before deciding on anything."""

    def __init__(
        self,
        *,
        log: CommitLog,
        view: LogView,
        following: Following,
        leader: Leader,
        route: CommitRoute | None,
        row: Callable[[], TableRow],
        clock: Clock,
    ) -> None:
        self.log, self._view, self._following = log, view, following
        self._leader, self._route, self._row, self._clock = leader, route, row, clock
        self.unsure = False

    async def land(self, commit: Commit) -> Committed:
        """`commit` was decided on the view's present head, which may move while this runs.

        Raises VersionTaken (decide anew), OutcomeUnknown after 30 s, and what the log raises."""
        route, after = self._route, self._view.head.version
        if route is None:
            return await self.append(commit, after=after)
        head = self._view.head
        proposal = Proposal(commit=commit, after=after, schema_id=head.schema_id, places=self._places(commit.writers))
        began_s, fresh = self._clock.monotonic_s(), False
        while True:
            holder = await self._leader.holder(self._row().uid, fresh=fresh)
            if not holder:
                return await self.append(commit, after=after)
            try:
                await self._send(route, holder, proposal)
                return await self._told(commit.id)
            except (errors.CommitConflict, errors.WriterFenced) as moved:
                raise VersionTaken from moved
            except errors.FieldInvalid:  # too large to be sent
                return await self.append(commit, after=after)
            except (errors.OutcomeUnknown, errors.RetryLater, errors.LeaseLost):
                self.unsure, fresh = True, True
            if found := await self._found(commit.id):
                return found
            waited_s = self._clock.monotonic_s() - began_s
            if waited_s > RESOLVE_S:
                raise errors.OutcomeUnknown("the replica that commits to this table does not answer")
            if waited_s > UNREACHED_S:
                return await self.append(commit, after=after)
            await asyncio.sleep(random.uniform(*_PAUSE_S))

    async def append(self, commit: Commit, *, after: Version) -> Committed:
        """By this replica, as the successor of `after`, the version it was decided on. An unknown outcome is resolved by reading.

        Raises VersionTaken also when it turns out not to have happened."""
        try:
            return Committed(await self.log.append(commit, after=after), commit)
        except errors.OutcomeUnknown as unknown:
            self.unsure = True
            began_s = self._clock.monotonic_s()
            while self._clock.monotonic_s() - began_s < RESOLVE_S:
                try:
                    for found in await self.log.read_after(after):
                        if found.commit.id == commit.id:
                            return found
                    raise VersionTaken from unknown
                except LogTrimmed:  # another replica has moved on and cut it: what the writers' records say decides
                    raise VersionTaken from unknown
                except (errors.OutcomeUnknown, errors.RetryLater):
                    pass
                await asyncio.sleep(0.2)
            raise

    async def _send(self, route: CommitRoute, holder: str, proposal: Proposal) -> None:
        """Waits for the answer, and looks meanwhile whether the holder still is one: a stopped process keeps its connections."""
        sending = asyncio.ensure_future(route.send(holder, self._row(), proposal))
        try:
            while not (await asyncio.wait({sending}, timeout=LOOK_S))[0]:
                if await self._leader.holder(self._row().uid, fresh=True) != holder:
                    raise errors.OutcomeUnknown("the replica that committed to this table has lost its lease")
            sending.result()
        finally:
            if not sending.done():
                sending.cancel()
                await asyncio.wait({sending})

    def _places(self, writers: Mapping[str, WriterState]) -> Mapping[str, WriterPlace]:
        head = self._view.head.writers
        return {name: place_of(head.get(name)) for name in writers}

    async def _told(self, commit_id: str) -> Committed:
        """The holder says that it is in the log: so it is read there, as it was stored."""
        began_s = self._clock.monotonic_s()
        while self._clock.monotonic_s() - began_s < RESOLVE_S:
            if found := await self._found(commit_id):
                return found
            await asyncio.sleep(random.uniform(*_PAUSE_S))
        raise errors.OutcomeUnknown("the log cannot be read")

    async def _found(self, commit_id: str) -> Committed | None:
        with contextlib.suppress(errors.OutcomeUnknown, errors.RetryLater):
            await self._following.look()
        return self._view.committed(commit_id)


def place_of(state: WriterState | None) -> WriterPlace:
    return WriterPlace() if state is None else WriterPlace(state.epoch, state.next_offset)


def follows(proposal: Proposal, head: Snapshot) -> Commit:
    """The proposed commit as the successor of `head`.

    Raises WriterFenced when a writer moved since it was decided, CommitConflict when the table did in a way that matters."""
    commit = proposal.commit
    for writer, place in proposal.places.items():
        stored = place_of(head.writers.get(writer))
        if stored != place:
            where = {"epoch": str(stored.epoch), "next_offset": str(stored.next_offset)}
            raise errors.WriterFenced("another commit moved a writer of this one", metadata=where)
    letters = {file.path for file in head.dead_letters}
    if any(file.path not in head.files for file in commit.removes) or any(
        file.path not in letters for file in commit.dead_letters_removed
    ):
        raise errors.CommitConflict("a file that this commit takes out has left the table")
    if head.schema_id != proposal.schema_id:
        raise errors.CommitConflict("the table's columns changed since this commit was decided")
    if head.version != proposal.after and (commit.kind in WHOLE or commit.schema is not None or commit.expire_below):
        raise errors.CommitConflict("the table moved on since this commit was decided")
    if commit.kind is CommitKind.APPEND and MERGED in head.writers:
        raise errors.CommitConflict("the table is merged into since this commit was decided")
    number = head.version + 1
    return replace(
        commit,
        time_us=max(commit.time_us, head.time_us),
        adds=tuple(replace(file, added_in=number) for file in commit.adds),
        dead_letters=tuple(replace(file, added_in=number) for file in commit.dead_letters),
    )
