"""The one task per open table that commits everything: appends, fences, compaction, checkpoints (contracts.md W4, W6).

decide (who is still live, whose lease holds, do the offsets follow) → write files → commit → publish → acknowledge. Streams hand in
whole batches and never touch the log; whatever else wants to change the table asks for a turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import pyarrow as pa

from millrace import errors
from millrace.failpoints import failpoint
from svc_storage.domain.definition import TableDefinition
from svc_storage.domain.reading.keys import IndexOf
from svc_storage.domain.versions import LogView
from svc_storage.domain.writing import assembly, contract, evolving, merging
from svc_storage.domain.writing.appending import AppendStream, OpenRequest
from svc_storage.domain.writing.assembly import Written
from svc_storage.domain.writing.contract import Checked
from svc_storage.domain.writing.courtesy import Courtesy
from svc_storage.domain.writing.following import Following
from svc_storage.domain.writing.group import SAMPLE, Ack, Group, Pace, Pending, Returning, Waiter
from svc_storage.domain.writing.landing import WHOLE, Landing, follows
from svc_storage.domain.writing.rehearsal import Rehearsal
from svc_storage.domain.writing.schema_change import SchemaChange
from svc_storage.domain.writing.trouble import Troubles
from svc_storage.domain.writing.writers import EpochClaim, check_lease, check_writer_id, take_epoch
from svc_storage.ports import (
    Clock,
    Commit,
    CommitKind,
    CommitLog,
    Committed,
    LeaseCheck,
    Proposal,
    Snapshot,
    TableFiles,
    Version,
    VersionTaken,
    WriterState,
)

T = TypeVar("T")
_log = logging.getLogger(__name__)
ATTEMPTS = 5
MERGE_LIMIT_S = 60.0
"""A merge that others' commits keep overtaking is decided anew for so long."""


class Committer:
    """Start it with `start`, end it with `close`. `following` moves `view`, `landing` puts commits into the log."""

    def __init__(
        self,
        *,
        landing: Landing,
        following: Following,
        files: TableFiles,
        view: LogView,
        definition: TableDefinition,
        leases: LeaseCheck,
        clock: Clock,
        index_of: IndexOf,
    ) -> None:
        self._index_of = index_of
        self._declared = self._definition = definition
        self.files = files
        self.view = view
        self.commits = self.rows = 0  # since the table was opened
        self._leases, self._clock = leases, clock
        self.troubles = Troubles(clock)
        self.landing, self._following = landing, following
        self._streams: dict[str, AppendStream] = {}
        self._group = Group()
        self._pace = Pace()
        self._courtesy = Courtesy(clock)
        self._returning = Returning()
        self._turns: deque[tuple[Callable[[], Awaitable[Any]], asyncio.Future[Any]]] = deque()
        self._answers: set[Waiter] = set()
        self._wake = asyncio.Event()
        self._emptied = asyncio.Event()  # a full group was taken
        self._ending: errors.MillraceError | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        # In no request's context: the caller who opened the table is not who commits to it.
        self._task = asyncio.create_task(self._run(), name="committer", context=contextvars.Context())

    async def close(self, reason: errors.MillraceError, *, commit_rest: bool = True) -> None:
        """Commits what waits (unless told not to), ends every stream with `reason`, then the task."""
        if self._ending is None:
            self._ending = reason
            if not commit_rest:
                self._group = Group()
            self._group.hurry = True
            self._wake.set()
        if self._task is not None:
            await asyncio.wait([self._task])

    @property
    def definition(self) -> TableDefinition:
        """With the columns of the newest version, whoever changed them."""
        head = self.view.head
        if self._definition.schema_id != head.schema_id:
            self._definition = self._declared.at(head.schema, head.schema_id)
        return self._definition

    @definition.setter
    def definition(self, new: TableDefinition) -> None:
        self._declared = self._definition = new

    @property
    def log(self) -> CommitLog:
        return self.landing.log

    @property
    def waiting_bytes(self) -> int:
        """Of batches that wait for the next commit."""
        return self._group.size

    @property
    def stream_count(self) -> int:
        return len(self._streams)

    def is_streaming(self, writer: str) -> bool:
        return writer in self._streams

    async def open(self, request: OpenRequest) -> AppendStream:
        """W1, W2: fences durably, drops the older stream's uncommitted batches, then answers.

        Raises NotAllowed, WriterFenced, LeaseLost, FieldInvalid; RetryLater kinds when the store does not answer."""
        check_writer_id(request.writer)
        opening = asyncio.ensure_future(self.turn(lambda: self._open(request)))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_unheard)  # nobody waits for the stream any more
            raise

    async def turn(self, work: Callable[[], Awaitable[T]]) -> T:
        """Runs `work` between two commits; nothing else changes the table meanwhile. Raises what it raises."""
        if self._ending is not None:
            raise self._ending
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._turns.append((work, done))
        self._wake.set()
        return await done

    async def commit(self, make: Callable[[], Commit]) -> Committed:
        """Within a turn: commits what `make` says, called again after a lost race. Raises CommitConflict, OutcomeUnknown, …"""
        return await self._commit(make, self.landing.land)

    async def take(self, proposal: Proposal) -> Version:
        """Another replica's commit, by this one, whatever the lease says. One that is in the log gets the version it has.

        Raises WriterFenced and CommitConflict when it does not follow the newest version, and what `turn` and the log raise."""

        async def append() -> Version:
            if found := self.view.committed(proposal.commit.id):
                return found.version
            try:
                done = await self._commit(lambda: follows(proposal, self.view.head), self._append)
            except (errors.CommitConflict, errors.WriterFenced):
                if proposal.commit.kind in WHOLE:
                    self._courtesy.refused()
                raise
            self._courtesy.landed()
            return done.version

        return await self.turn(append)

    async def _append(self, commit: Commit) -> Committed:
        return await self.landing.append(commit, after=self.view.head.version)

    async def _commit(self, make: Callable[[], Commit], land: Callable[[Commit], Awaitable[Committed]]) -> Committed:
        tried: list[str] = []
        for _ in range(ATTEMPTS):
            if self.landing.unsure:
                await self._refresh()
            if found := self._landed(tried):
                return found
            commit = make()
            tried.append(commit.id)
            try:
                committed = await land(commit)
            except VersionTaken:
                await self._refresh()
                continue
            self.troubles.landed()
            failpoint("storage.before_publish")
            return await self._publish(committed)
        if found := self._landed(tried):
            return found
        raise errors.CommitConflict("another process kept winning the race for the next version", retry_after_ms=200)

    def _landed(self, tried: Sequence[str]) -> Committed | None:
        """A try that lost its answer and not its race."""
        return next((found for id in tried if (found := self.view.committed(id))), None)

    # -- Desk ---------------------------------------------------------------------------------------------------------
    async def room(self) -> None:
        while self._group.full and self._ending is None:
            self._emptied.clear()
            await self._emptied.wait()
        if self._ending is not None:
            raise self._ending

    def submit(self, entry: Pending) -> None:
        was_empty = not self._group.entries
        self._group.add(entry, self._clock.monotonic_s())
        if self._returning.came(entry.stream) or was_empty or self._group.full:
            self._wake.set()

    def hurry(self, stream: Waiter) -> None:
        if self._group.holds(stream):
            self._group.hurry = True
            self._wake.set()

    def answer(self, stream: Waiter) -> None:
        self._answers.add(stream)
        if not self._group.holds(stream):
            self._wake.set()

    def leave(self, stream: Waiter) -> None:
        self._group.drop(stream)
        self._answers.discard(stream)
        if self._returning.came(stream):
            self._wake.set()
        if self._streams.get(stream.writer) is stream:
            del self._streams[stream.writer]

    async def change_schema(self, change: SchemaChange, *, at: str = "schema_change") -> TableDefinition:
        return await evolving.change_schema(self, change, now_us=self._clock.now_us, at=at)

    async def check(self, rows: pa.RecordBatch, *, aside: bool) -> Checked:
        if aside:
            return await asyncio.to_thread(contract.check, rows, self.definition)
        return contract.check(rows, self.definition)

    # -- the task -----------------------------------------------------------------------------------------------------
    async def _run(self) -> None:
        while (ending := self._ending) is None or self._group.entries:
            wait_s = self._wait_s()
            if wait_s:
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), None if wait_s < 0 else wait_s)
                continue
            try:
                await self._work()
            except Exception:
                _log.exception("the committer failed; its streams end, it goes on")
                self._fail_all(errors.Unexpected("the committer failed"))
        self._finish(ending)

    async def _work(self) -> None:
        if self._turns:
            await self._take_turn(*self._turns.popleft())
        if self._group_wait_s() == 0.0:
            await self._commit_group()
        self._answer_waiting()

    def _wait_s(self) -> float:
        """0 = work now; below 0 = until woken."""
        if self._turns or any(not self._group.holds(stream) for stream in self._answers):
            return 0.0
        wait_s = self._group_wait_s()
        return -1.0 if wait_s is None else wait_s

    def _group_wait_s(self) -> float | None:
        """As `Group.wait_s`; a group that is due waits a moment for streams that were just answered."""
        now_s = self._clock.monotonic_s()
        wait_s = self._group.wait_s(now_s, self._interval_s())
        if wait_s is not None and self._ending is None and (left_s := self._courtesy.left_s()):
            return max(wait_s, left_s)
        if wait_s == 0.0 and self._ending is None and not self._group.full:
            return self._returning.wait_s(now_s)
        return wait_s

    def _interval_s(self) -> float:
        return self._pace.interval_s(stream.interval_s for stream in self._streams.values())

    async def _take_turn(self, work: Callable[[], Awaitable[Any]], done: asyncio.Future[Any]) -> None:
        if done.cancelled():
            return
        try:
            result = await work()
        except Exception as error:
            self.troubles.note(error)
            if not done.cancelled():
                done.set_exception(error)
        else:
            if not done.cancelled():
                done.set_result(result)

    def _fail_all(self, reason: errors.MillraceError) -> None:
        for stream in list(self._streams.values()):
            stream.fail(reason)
        self._group, self._answers = Group(), set()

    def _finish(self, reason: errors.MillraceError) -> None:
        self._fail_all(reason)
        for _, done in self._turns:
            if not done.done():
                done.set_exception(reason)
        self._turns.clear()
        self._emptied.set()

    # -- one commit ---------------------------------------------------------------------------------------------------
    async def _commit_group(self) -> None:
        group, self._group = self._group, Group()
        self._emptied.set()
        started_s = self._clock.monotonic_s()
        self.troubles.began()
        try:
            await self._check_leases(group)
            live = [entry for entry in group.entries if entry.stream.live]
            entries, committed, written = await self._commit_entries(live)
        except errors.MillraceError as error:
            self.troubles.note(error)
            _fail(group.entries, error)
            return
        except Exception:
            _log.exception("a commit failed unexpectedly")
            _fail(group.entries, errors.Unexpected("the commit failed"))
            return
        finally:
            self.troubles.ended()
        if committed is None or written is None:
            return
        self.commits += 1
        self.rows += committed.commit.rows_added
        now_s = self._clock.monotonic_s()
        self._pace.note(now_s - started_s)
        failpoint("storage.before_ack")
        self._returning.expect((entry.stream for entry in entries if entry.stream.live), now_s, now_s - started_s)
        self._acknowledge(entries, committed, written)

    async def _commit_entries(
        self, entries: Sequence[Pending]
    ) -> tuple[Sequence[Pending], Committed | None, Written | None]:
        """What was committed of them: streams that do not follow what is stored any more end alone."""
        tries, until_s = 0, self._clock.monotonic_s() + MERGE_LIMIT_S
        while entries and (tries < ATTEMPTS or (_merge(entries) and self._clock.monotonic_s() < until_s)):
            tries += 1
            time_us = max(self._clock.now_us(), self.view.head.time_us)
            written = await self._write(entries, time_us)
            make = _maker(entries, written, lambda: self.view.head)
            try:
                return entries, await self.commit(make), written
            except assembly.WriterMoved:
                await self.files.remove([*(file.path for file in written.rows), *(file.path for file in written.dead)])
                entries = self._still_following(entries)
            except assembly.OtherColumns:  # another replica changed them: the files are written anew
                await self.files.remove([*(file.path for file in written.rows), *(file.path for file in written.dead)])
                entries = [entry for entry in entries if entry.stream.live]
        if not entries:
            return (), None, None
        raise errors.CommitConflict("other replicas kept moving these writers", retry_after_ms=200)

    async def _write(self, entries: Sequence[Pending], time_us: int) -> Written:
        if not _merge(entries):
            return await assembly.write_files(self.files, self.definition, entries, time_us=time_us)
        into = merging.Into(self.files, self.definition, self.view.head, self._index_of)
        return await merging.write_files(into, entries, time_us=time_us)

    def _still_following(self, entries: Sequence[Pending]) -> Sequence[Pending]:
        """Without the streams whose writer another replica moved; those end."""
        first: dict[Waiter, Pending] = {}
        for entry in entries:
            first.setdefault(entry.stream, entry)
        for stream, entry in first.items():
            if refused := assembly.refusal(entry, self.view.head.writers.get(stream.writer)):
                stream.fail(refused)
        return [entry for entry in entries if entry.stream.live]

    async def _check_leases(self, group: Group) -> None:
        for stream in {entry.stream for entry in group.entries if entry.stream.lease}:
            try:
                check_lease(stream.lease, stream.epoch, await self._leases.current_epoch(stream.lease))
            except errors.LeaseLost as lost:
                stream.fail(lost)

    async def _refresh(self) -> None:
        """Takes in what others committed, and what of ours turned out to have happened."""
        await self._following.look()
        self.landing.unsure = False

    async def _publish(self, committed: Committed) -> Committed:
        head = self.view.head.version
        if committed.version == head + 1:
            self._following.publish(committed)
        elif committed.version > head:  # others' commits came between
            await self._refresh()
        self.landing.unsure = False
        return committed

    def _acknowledge(self, entries: Sequence[Pending], committed: Committed, written: Written) -> None:
        by_stream: dict[Waiter, list[Pending]] = {}
        for entry in entries:
            by_stream.setdefault(entry.stream, []).append(entry)
        for stream, own in by_stream.items():
            state = committed.commit.writers[stream.writer]
            self._answers.discard(stream)
            ack = replace(
                _ack_of(state, committed.version, committed.commit.time_us),
                **merging.counts(own, written),
                rows_dead=sum(len(entry.dead) for entry in own),
                sample=tuple(row for entry in own for row in entry.sample)[:SAMPLE],
            )
            stream.acknowledge(ack, batches=len(own), cost=sum(entry.cost for entry in own))

    def _answer_waiting(self) -> None:
        """Acks for streams that sent only what was known already."""
        head = self.view.head
        for stream in [stream for stream in self._answers if not self._group.holds(stream)]:
            self._answers.discard(stream)
            stream.acknowledge(_ack_of(head.writers[stream.writer], head.version, head.time_us), batches=0, cost=0)

    # -- opening a stream ---------------------------------------------------------------------------------------------
    async def _open(self, request: OpenRequest) -> AppendStream:
        if self.landing.unsure or self._following.shared:
            await self._refresh()  # W1: an equal epoch costs no commit, only a fresh read
        for _ in range(ATTEMPTS):
            with contextlib.suppress(assembly.WriterMoved):
                return await self._open_once(request)
        raise errors.CommitConflict("other replicas kept moving this writer", retry_after_ms=200)

    async def _open_once(self, request: OpenRequest) -> AppendStream:
        lease_epoch = await self._leases.current_epoch(request.lease) if request.lease else 0
        stored = self.view.head.writers.get(request.writer)
        claim = EpochClaim(request.epoch, request.principal, request.lease, lease_epoch)
        state = take_epoch(stored, claim)
        merging.check_mode(request, self.definition, self.view.head, self._streams.values())
        if request.validate_only:
            return AppendStream(merging.desk_for(Rehearsal(self), request), request, state, self.view.head.version)
        if older := self._streams.get(request.writer):
            self.leave(older)
            older.fail(_superseded(older.epoch, state.epoch))
        if state is not stored:
            if request.lease:
                await self._leases.raise_floor(request.lease, state.epoch)
            await self._fence(request.writer, state, stored)
        stream = AppendStream(
            merging.desk_for(self, request), request, self.view.head.writers[request.writer], self.view.head.version
        )
        self._streams[request.writer] = stream
        return stream

    async def _fence(self, writer: str, state: WriterState, before: WriterState | None) -> None:
        """Raises WriterMoved when another replica moved the writer from `before`."""

        def make() -> Commit:
            head = self.view.head
            if head.writers.get(writer) != before:
                raise assembly.WriterMoved
            time_us = max(self._clock.now_us(), head.time_us)
            return Commit(
                id=str(uuid.uuid4()), kind=CommitKind.FENCE, time_us=time_us, writers={writer: replace(state, marks=())}
            )

        failpoint("storage.before_fence")
        await self.commit(make)


def _merge(entries: Sequence[Pending]) -> bool:
    return entries[0].stream.merges


def _maker(entries: Sequence[Pending], written: Written, head: Callable[[], Snapshot]) -> Callable[[], Commit]:
    if isinstance(written, merging.Merged):
        return lambda: merging.commit_of(entries, written, head())
    return lambda: assembly.commit_of(entries, written, head())


def _close_unheard(opening: asyncio.Future[AppendStream]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


def _fail(entries: Sequence[Pending], error: errors.MillraceError) -> None:
    for entry in entries:
        entry.stream.fail(error)


def _ack_of(state: WriterState, version: Version, time_us: int) -> Ack:
    return Ack(
        next_offset=state.next_offset,
        version=version,
        time_us=time_us,
        positions=state.positions,
        event_time_high_us=state.event_time_high_us,
    )


def _superseded(older: int, newer: int) -> errors.MillraceError:
    if newer > older:
        return errors.WriterFenced(
            "a newer epoch of this writer was opened", metadata={"epoch": str(newer)}, hint="stop"
        )
    return errors.WriterSuperseded("a newer stream of the same writer and epoch took over")
