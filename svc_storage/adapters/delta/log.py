"""Delta Lake as the commit log of one table: `_delta_log/N.json` is version N.

One handle per table, used by one thread at a time: the check and the commit use the same one (delta-rs lets a fresh one commit a lower
transaction version), so a commit after anything but the handle's own version is VersionTaken. A commit does not advance its handle;
reading it back takes as long as writing it, so that happens after the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import TypeVar, TypeVarTuple

from deltalake import CommitProperties, DeltaTable, Schema, Transaction
from deltalake.exceptions import DeltaError
from deltalake.transaction import AddAction, RemoveAction

from millrace import errors
from millrace.failpoints import failpoint
from svc_storage.adapters.delta import checkpoint, codec, recovery, schemas
from svc_storage.adapters.delta.place import LOG, NO_HOOKS, Place, log_name
from svc_storage.ports import (
    Commit,
    CommitCapabilities,
    CommitKind,
    Committed,
    LogTail,
    LogTrimmed,
    Snapshot,
    Version,
    VersionTaken,
)

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

READ_ATTEMPTS = 3
LOOK_FOR_GAPS_S = 60.0
"""A process that slept for longer than the log is kept finds nothing after what it knows: it looks for that once a minute."""


class DeltaLog:
    """In `place`. Blocking work runs on `pool`."""

    capabilities = CommitCapabilities(conditional=True, checkpoints=True, trim=True)

    def __init__(self, place: Place, pool: Executor) -> None:
        self._place, self._pool = place, pool
        self._table: DeltaTable | None = None
        self._schema: Schema | None = None
        self._behind = False  # there are commits that the handle has not read
        self._opened_for = -1  # the place's number
        self._looked_s = time.monotonic()  # for a gap above what was read last
        self._guard = threading.Lock()  # of the first four above, which only worker threads touch

    async def recover(self) -> LogTail:
        return await self._run(self._recover)

    async def append(self, commit: Commit, *, after: Version) -> Version:
        version = await self._run(self._append, commit, after)
        with contextlib.suppress(RuntimeError):  # the pool is closed: so is the table
            self._pool.submit(self._catch_up)
        return version

    async def read_after(self, version: Version) -> Sequence[Committed]:
        return await self._run(self._read_after, version)

    async def checkpoint(self, snapshot: Snapshot, removed_us: Mapping[str, int]) -> None:
        await self._run(self._checkpoint, snapshot, removed_us)

    async def checkpoints(self) -> Sequence[Version]:
        return await self._run(checkpoint.versions, self._place)

    async def drop_checkpoints(self, versions: Sequence[Version]) -> None:
        await self._run(checkpoint.drop, self._place, versions)

    async def trim(self, floor: Version) -> None:
        await self._run(checkpoint.trim, self._place, floor)

    async def close(self) -> None:
        await self._run(self._let_go)

    # Below: on a worker thread.
    def _recover(self) -> LogTail:
        recovery.settle(self._place)
        for _ in range(READ_ATTEMPTS):
            with contextlib.suppress(FileNotFoundError):  # another process cuts the log
                return recovery.read(self._place)
        raise errors.ChecksumMismatch("files of the table's log are missing")

    def _append(self, commit: Commit, after: Version) -> Version:
        with self._guard:
            table = self._standing_at(after)
            if table is None:
                return self._resolve(commit, after)
            try:
                failpoint("storage.before_commit")
                self._write(table, commit)
                failpoint("storage.after_commit")
            except Exception as error:  # anything may have happened: only reading tells
                return self._resolve(commit, after, error)
            self._must_follow(after)
            return self._settle(after + 1)  # without retries, a commit is the next version or none

    def _must_follow(self, after: Version) -> None:
        """Of a log that was cut above `after`, any name below the cut is free: what was put there is no commit, and is taken away.

        Whoever cuts leaves the entry that the log then begins with, so an entry that is still there says that nothing was cut above it."""
        if not self._place.whole:
            return
        try:
            follows = self._place.exists(f"{LOG}/{log_name(after)}") or not recovery.is_cut_above(
                self._place, after + 1
            )
            if not follows:
                self._table, self._looked_s = None, float("-inf")
                self._place.delete([f"{LOG}/{log_name(after + 1)}"])
        except (OSError, errors.StoreUnavailable) as away:
            self._table = None
            raise errors.OutcomeUnknown("the commit is written, but not known to follow") from away
        if not follows:
            raise VersionTaken

    def _is_cut_above(self, version: Version) -> bool:
        """Where others write too, at every look: an erasure cuts the log at once. Alone, once a minute."""
        if self._place.whole:
            return not self._place.exists(f"{LOG}/{log_name(version)}") and recovery.is_cut_above(self._place, version)
        if time.monotonic() <= self._looked_s + LOOK_FOR_GAPS_S:
            return False
        self._looked_s = time.monotonic()
        return recovery.is_cut_above(self._place, version)

    def _standing_at(self, version: Version) -> DeltaTable | None:
        """The handle; None when the table has moved on. Nothing was sent yet when this fails."""
        try:
            table = self._handle()
            if table.version() < version:  # another process committed that, and the log was read since
                table.update_incremental()
            return table if table.version() == version else None
        except Exception as error:
            self._table = None
            raise self._fault(error) from error

    def _fault(self, error: Exception) -> errors.MillraceError:
        if isinstance(error, errors.MillraceError):
            return error
        return self._place.failure(error) or errors.StoreUnavailable(
            f"the commit was refused: {type(error).__name__}", retry_after_ms=1_000
        )

    def _handle(self) -> DeltaTable:
        if self._table is None or self._opened_for != self._place.number:
            self._opened_for = self._place.number
            self._table = self._place.handle()
            self._schema = self._table.schema()
        elif self._behind:
            self._table.update_incremental()
        self._behind = False
        return self._table

    def _catch_up(self) -> None:
        with self._guard:
            try:
                self._handle()
            except Exception:  # the next commit opens anew, and tells what is wrong
                self._table = None

    def _let_go(self) -> None:
        with self._guard:
            self._table = self._schema = None

    def _write(self, table: DeltaTable, commit: Commit) -> None:
        if commit.schema is not None:
            schemas.write(table, commit)
            self._behind, self._schema = True, None
            return
        now_ms = time.time_ns() // 1_000_000
        changed = commit.kind is not CommitKind.COMPACT
        actions: list[AddAction | RemoveAction] = [
            AddAction(file.path, file.size_bytes, {}, file.modified_ms, changed, file.stats_json)
            for file in commit.adds
        ]
        actions += [RemoveAction(file.path, changed, now_ms, file.size_bytes, {}) for file in commit.removes]
        transactions = [Transaction(name, codec.txn_version(state), now_ms) for name, state in commit.writers.items()]
        if codec.has_own_txn(commit):
            transactions.append(Transaction("millrace.compact", table.version() + 1, now_ms))
        table.create_write_transaction(
            actions,
            "append",
            self._schema or table.schema(),
            commit_properties=CommitProperties(
                custom_metadata={codec.KEY: codec.encode_record(commit)},
                max_commit_retries=0,
                app_transactions=transactions,
            ),
            post_commithook_properties=NO_HOOKS,
        )
        self._behind = True

    def _resolve(self, commit: Commit, after: Version, error: Exception | None = None) -> Version:
        """Did it happen? Found by its id: yes. Another in its place: no. Nothing there: no."""
        self._table = None
        try:
            later = recovery.read_commits(self._place, after)
        except (OSError, ValueError, errors.StoreUnavailable) as unreadable:
            raise errors.OutcomeUnknown("the commit's outcome could not be read yet") from unreadable
        for found in later:
            if found.commit.id == commit.id:
                self._must_follow(after)
                self._must_reopen(found.version)
                return self._settle(found.version)
        if later:
            raise VersionTaken from error
        if error is None:  # the log went on and was cut: `read_after` tells
            self._looked_s = float("-inf")
            raise VersionTaken
        raise self._fault(error) from error

    def _must_reopen(self, version: Version) -> None:
        """A commit that makes the table unopenable was never acknowledged: it is taken out again."""
        try:
            self._place.handle()
        except Exception as poison:
            if self._place.failure(poison):
                raise errors.OutcomeUnknown("the commit is there, the table cannot be opened yet") from poison
            self._place.move_aside(f"{LOG}/{log_name(version)}")
            raise errors.Unexpected("a commit made the table unreadable and was taken back") from poison

    def _settle(self, version: Version) -> Version:
        """Written is not durable: until the fsync succeeds nobody may be told."""
        try:
            self._place.keep([f"{LOG}/{log_name(version)}"], [LOG])
            failpoint("storage.after_commit_fsync")
        except Exception as error:
            self._table = None
            raise errors.OutcomeUnknown("the commit is written, but not known to be on the disk") from error
        return version

    def _read_after(self, version: Version) -> Sequence[Committed]:
        later = recovery.read_commits(self._place, version)
        if not later and self._is_cut_above(version):
            raise LogTrimmed
        if later:
            with self._guard:
                self._behind, self._schema = True, None  # also when one of them changed the columns
                for found in later:
                    self._settle(found.version)
        return later

    def _checkpoint(self, snapshot: Snapshot, removed_us: Mapping[str, int]) -> None:
        with self._guard:
            checkpoint.write(self._place, self._handle(), snapshot, removed_us)

    async def _run(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work, *args)
        except (OSError, DeltaError) as error:
            if known := self._place.failure(error):
                raise known from error
            raise
