"""Delta Lake as the commit log of one table: `_delta_log/N.json` is version N.

An entry is written here, put if absent: deltalake lists the whole log three times for each commit and stats what is newer than the last
checkpoint (20 ms and rising at 3,000 versions), and the name alone decides who wins. deltalake writes what is rare: checkpoints, and
commits that change columns.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import TypeVar, TypeVarTuple

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from millrace import errors
from millrace.failpoints import failpoint
from svc_storage.adapters.delta import checkpoint, codec, recovery, schemas
from svc_storage.adapters.delta.place import LOG, Place, log_name
from svc_storage.ports import (
    Commit,
    CommitCapabilities,
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
        self._looked_s = time.monotonic()  # for a gap above what was read last
        self._guard = threading.Lock()  # one thread at a time writes

    async def recover(self) -> LogTail:
        return await self._run(self._recover)

    async def append(self, commit: Commit, *, after: Version) -> Version:
        return await self._run(self._append, commit, after)

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
        """Nothing is held open."""

    # Below: on a worker thread.
    def _recover(self) -> LogTail:
        recovery.settle(self._place)
        for _ in range(READ_ATTEMPTS):
            with contextlib.suppress(FileNotFoundError):  # another process cuts the log
                return recovery.read(self._place)
        raise errors.ChecksumMismatch("files of the table's log are missing")

    def _append(self, commit: Commit, after: Version) -> Version:
        with self._guard:
            before = None if commit.schema is None else self._standing_at(after)
            if commit.schema is not None and before is None:
                return self._resolve(commit, after)
            try:
                failpoint("storage.before_commit")
                won = self._write(commit, after, before)
                failpoint("storage.after_commit")
            except Exception as error:  # anything may have happened: only reading tells
                return self._resolve(commit, after, error)
            if not won:
                return self._resolve(commit, after)
            self._must_follow(after)
            return self._settle(after + 1)

    def _must_follow(self, after: Version) -> None:
        """Of a log that was cut above `after`, any name below the cut is free: what was put there is no commit, and is taken away.

        Whoever cuts leaves the entry that the log then begins with, so an entry that is still there says that nothing was cut above it."""
        try:
            follows = self._place.exists(f"{LOG}/{log_name(after)}") or not recovery.is_cut_above(
                self._place, after + 1
            )
            if not follows:
                self._looked_s = float("-inf")
                self._place.delete([f"{LOG}/{log_name(after + 1)}"])
        except (OSError, errors.StoreUnavailable) as away:
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
        """A handle of that version, for what only deltalake writes; None when it was cut. Nothing was sent yet when this fails."""
        try:
            return self._place.handle(version)
        except Exception as error:
            if not self._place.failure(error) and recovery.is_cut_above(self._place, version):
                return None
            raise self._fault(error) from error

    def _fault(self, error: Exception) -> errors.MillraceError:
        if isinstance(error, errors.MillraceError):
            return error
        return self._place.failure(error) or errors.StoreUnavailable(
            f"the commit was refused: {type(error).__name__}", retry_after_ms=1_000
        )

    def _write(self, commit: Commit, after: Version, before: DeltaTable | None) -> bool:
        """False: the version was taken. `before`: the table that changes its columns."""
        if before is not None:
            schemas.write(before, commit)
            return True
        entry = codec.encode_log_file(after + 1, commit, now_ms=time.time_ns() // 1_000_000)
        return self._place.put_new(f"{LOG}/{log_name(after + 1)}", entry)

    def _resolve(self, commit: Commit, after: Version, error: Exception | None = None) -> Version:
        """Did it happen? Found by its id: yes. Another in its place: no. Nothing there: no."""
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
            raise errors.OutcomeUnknown("the commit is written, but not known to be on the disk") from error
        return version

    def _read_after(self, version: Version) -> Sequence[Committed]:
        later = recovery.read_commits(self._place, version)
        if not later and self._is_cut_above(version):
            raise LogTrimmed
        if later:
            with self._guard:
                for found in later:
                    self._settle(found.version)
        return later

    def _checkpoint(self, snapshot: Snapshot, removed_us: Mapping[str, int]) -> None:
        with self._guard:
            before = checkpoint.versions(self._place)[-1:]
            checkpoint.write(self._place, self._place.handle(snapshot.version), snapshot, removed_us)
            checkpoint.strip(self._place, [version for version in before if version < snapshot.version])

    async def _run(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work, *args)
        except (OSError, DeltaError) as error:
            if known := self._place.failure(error):
                raise known from error
            raise
