"""The commit log of one table: `INSERT … IF NOT EXISTS` at ((uid, n / 256), n). One number, one winner.

An answer that does not come is looked for: reading n at LOCAL_SERIAL settles whatever is under way there, and the commit's id says whose
it is. What is cut from the log goes with its whole partition, and only some time after everyone had to see that it is full: a conditional
write into a partition that was deleted would be a first one. Who was stopped for longer than that looks whether the log was cut above its
commit before it believes in it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import TypeVar, TypeVarTuple, Unpack

from millrace import errors
from millrace.failpoints import failpoint
from svc_storage.adapters.cassandra import codec
from svc_storage.adapters.cassandra.objects import Objects, ahead_us
from svc_storage.adapters.cassandra.session import Row, Session
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
PART = 256
"""Commits in a partition."""
INLINE_BYTES = 128 << 10
"""A larger body lies beside the log, so that a partition stays below 32 MiB."""
ATTEMPTS = 3
COMMIT_S = 5.0
FRESH_S = 300.0
"""Whoever heard from the log so lately need not ask whether it was cut."""
GRACE_S = 900.0
"""How long a full partition is kept at least; well above FRESH_S."""

_APPEND = "INSERT INTO commits (uid, part, n, id, body, file) VALUES (?, ?, ?, ?, ?, ?) IF NOT EXISTS"
_ID = "SELECT id FROM commits WHERE uid = ? AND part = ? AND n = ?"
_AFTER = "SELECT n, id, body, file FROM commits WHERE uid = ? AND part = ? AND n > ?"
_FILES = "SELECT file FROM commits WHERE uid = ? AND part = ?"
_DROP = "DELETE FROM commits USING TIMESTAMP ? WHERE uid = ? AND part = ?"
_TABLE = "SELECT created_us, arrow_schema, bases FROM tables WHERE uid = ?"
_SET_BASES = "UPDATE tables SET bases = ? WHERE uid = ? IF bases = ?"
STATEMENTS = (_APPEND, _ID, _AFTER, _FILES, _DROP, _TABLE, _SET_BASES)


@dataclass(frozen=True, slots=True)
class Bases:
    """Where the log begins. `versions`: states it can be opened from; `floor`: what is at or below it is cut; `dropped`: partitions
    below this one are gone."""

    versions: tuple[Version, ...] = ()
    floor: Version = 0
    dropped: int = 0

    @classmethod
    def read(cls, text: str) -> Bases:
        raw = json.loads(text)
        return cls(tuple(raw["versions"]), raw["floor"], raw["dropped"])

    def text(self) -> str:
        return json.dumps({"versions": self.versions, "floor": self.floor, "dropped": self.dropped})


class CassandraLog:
    """Of the table `uid`. Blocking work runs on `pool`."""

    capabilities = CommitCapabilities(conditional=True, checkpoints=True, trim=True)

    def __init__(self, session: Session, uid: str, pool: Executor, *, grace_s: float = GRACE_S) -> None:
        self._session, self._uid, self._pool, self._grace_s = session, uid, pool, grace_s
        self._objects = Objects(session, uid)
        self._known: Version = 0  # a commit that is there
        self._heard_s = -FRESH_S  # when the log last told us what is newest
        self._unsure = False
        self._full_s: dict[int, float] = {}  # partitions, with the time we knew that they were full

    # -- reading
    async def recover(self) -> LogTail:
        try:
            return await self._recover()
        except errors.FileMissing:  # cut by another replica between two of our reads
            return await self._recover()

    async def read_after(self, version: Version) -> Sequence[Committed]:
        started_s, fresh = _now_s(), self._is_fresh()
        found = await self._read(version, serial=self._unsure)
        if not fresh or (found and found[0].version != version + 1):
            await self._check_floor(version)
        self._heard(started_s, found[-1].version if found else version)
        self._unsure = False
        return found

    async def _recover(self) -> LogTail:
        started_s = _now_s()
        created_us, schema, bases = await self._table()
        base = Snapshot(version=0, time_us=created_us, schema=codec.schema_from(schema))
        removed_us: Mapping[str, int] = {}
        if bases.versions:
            version = bases.versions[0]
            content = await self._aside(self._objects.get, _base_name(version))
            try:
                base, removed_us = codec.decode_base(content)
            except ValueError as torn:
                raise errors.ChecksumMismatch(f"the state of version {version} is damaged: {torn}") from torn
        commits = await self._read(base.version, serial=False)
        newest = commits[-1].version if commits else base.version
        commits += await self._read(newest, serial=True)  # what was under way when its writer died
        newest = commits[-1].version if commits else base.version
        self._heard(started_s, newest)
        return LogTail(base, tuple(commits), removed_us)

    async def _read(self, version: Version, *, serial: bool) -> list[Committed]:
        """What follows `version`, as far as it goes without a gap; a gap directly after it is the caller's to judge."""
        found: list[Committed] = []
        part = (version + 1) // PART
        while True:
            rows = await self._session.run(_AFTER, self._uid, part, version, serial=serial)
            for row in rows:
                if found and row[0] != found[-1].version + 1:
                    raise errors.ChecksumMismatch(f"version {found[-1].version + 1} of the table's log is missing")
                found.append(await self._decoded(row))
            if not rows or rows[-1][0] % PART != PART - 1:
                return found
            version, part = rows[-1][0], part + 1

    async def _decoded(self, row: Row) -> Committed:
        n, _, body, file = row
        try:
            commit = codec.decode_commit(body or await self._aside(self._objects.get, file))
        except ValueError as torn:
            raise errors.ChecksumMismatch(f"version {n} of the table's log is damaged: {torn}") from torn
        adds = tuple(replace(added, added_in=n) for added in commit.adds)
        dead = tuple(replace(added, added_in=n) for added in commit.dead_letters)
        return Committed(n, replace(commit, adds=adds, dead_letters=dead))

    # -- committing
    async def append(self, commit: Commit, *, after: Version) -> Version:
        failpoint("storage.before_commit")
        if after > self._known and after not in {found.version for found in await self.read_after(after - 1)}:
            raise VersionTaken
        n, started_s, fresh = after + 1, _now_s(), self._is_fresh()
        body, file = await self._placed(commit)
        winner = await self._contend(n, commit.id, body, file)
        if winner != commit.id or (not (fresh and self._is_fresh()) and await self._is_cut(n)):
            if file:
                await self._aside(self._objects.remove, file)
            raise VersionTaken
        self._heard(started_s, n)
        failpoint("storage.after_commit")
        failpoint("storage.after_commit_fsync")
        return n

    async def _placed(self, commit: Commit) -> tuple[bytes, str]:
        """(what stands in the log, where the rest lies). One of them is empty: a NULL would be a tombstone."""
        content = codec.encode_commit(commit)
        if len(content) <= INLINE_BYTES:
            return content, ""
        file = f"_log/commit/{commit.id}"
        await self._aside(self._objects.put, file, content)
        return b"", file

    async def _contend(self, n: Version, commit_id: str, body: bytes, file: str) -> str:
        """The id of the commit that stands at n in the end. Raises OutcomeUnknown, StoreUnavailable (surely nothing happened)."""
        for _ in range(ATTEMPTS):
            try:
                stood = await self._session.cas(
                    _APPEND, self._uid, n // PART, n, commit_id, body, file, timeout_s=COMMIT_S
                )
                return commit_id if stood is None else _id_of(stood)
            except errors.OutcomeUnknown:
                self._unsure = True
                if found := await self._look(n):
                    self._unsure = False
                    return found
            except errors.StoreUnavailable as refused:
                if not self._unsure:
                    raise
                raise errors.OutcomeUnknown("Cassandra did not say whether a commit happened") from refused
        raise errors.OutcomeUnknown("Cassandra did not say whether a commit happened")

    async def _look(self, n: Version) -> str | None:
        """Whose commit stands at n, once nothing is under way there any more."""
        try:
            rows = await self._session.run(_ID, self._uid, n // PART, n, serial=True, timeout_s=COMMIT_S)
        except errors.StoreUnavailable as silent:
            raise errors.OutcomeUnknown("the commit's outcome could not be read yet") from silent
        return str(rows[0][0]) if rows else None

    # -- upkeep
    async def checkpoint(self, snapshot: Snapshot, removed_us: Mapping[str, int]) -> None:
        content = codec.encode_base(snapshot, removed_us)
        await self._aside(self._objects.put, _base_name(snapshot.version), content)
        failpoint("storage.after_checkpoint_write")
        await self._move(lambda bases: replace(bases, versions=tuple(sorted({*bases.versions, snapshot.version}))))

    async def checkpoints(self) -> Sequence[Version]:
        return (await self._table())[2].versions

    async def drop_checkpoints(self, versions: Sequence[Version]) -> None:
        gone = {*versions}
        await self._move(lambda bases: replace(bases, versions=tuple(v for v in bases.versions if v not in gone)))
        failpoint("storage.during_drop")
        for version in sorted(gone):
            await self._aside(self._objects.remove, _base_name(version))

    async def trim(self, floor: Version) -> None:
        before = (await self._table())[2]
        bases = await self._move(
            lambda bases: replace(
                bases,
                versions=tuple(version for version in bases.versions if version >= floor),
                floor=max(floor, bases.floor),
            )
        )
        failpoint("storage.during_trim")
        for version in sorted({*before.versions}.difference(bases.versions)):
            await self._aside(self._objects.remove, _base_name(version))
        end = bases.dropped
        while (end + 1) * PART - 1 <= bases.floor and _now_s() - self._full_s.get(end, _now_s()) >= self._grace_s:
            await self._aside(self._drop_part, end)
            end += 1
        if end != bases.dropped:
            await self._move(lambda bases: replace(bases, dropped=max(bases.dropped, end)))
            self._full_s = {part: since_s for part, since_s in self._full_s.items() if part >= end}

    async def drop(self) -> None:
        """The whole log; the table is gone."""
        bases = (await self._table())[2]
        tail = await self._session.run(_FILES, self._uid, bases.dropped)
        part = bases.dropped
        while tail:
            await self._aside(self._drop_part, part, time.time_ns() // 1000)
            part += 1
            tail = await self._session.run(_FILES, self._uid, part)
        for version in bases.versions:
            await self._aside(self._objects.remove, _base_name(version))

    async def close(self) -> None:
        """There is no handle."""

    def _drop_part(self, part: int, at_us: int = 0) -> None:
        """`at_us` 0: nothing may be written there again."""
        for (file,) in self._session.wait(_FILES, self._uid, part):
            if file:
                self._objects.remove(file)
        self._session.wait(_DROP, at_us or ahead_us(), self._uid, part)

    async def _move(self, change: Callable[[Bases], Bases]) -> Bases:
        """A conditional change of where the log begins; repeating it is no change."""
        for _ in range(20):
            bases = (await self._table())[2]
            wanted = change(bases)
            if wanted == bases:
                return bases
            try:
                if await self._session.cas(_SET_BASES, wanted.text(), self._uid, bases.text()) is None:
                    return wanted
            except errors.OutcomeUnknown:
                continue
        raise errors.StoreUnavailable("the table's log is being changed by others", retry_after_ms=500)

    async def _table(self) -> tuple[int, bytes, Bases]:
        rows = await self._session.run(_TABLE, self._uid, serial=True)
        if not rows or rows[0][1] is None:
            raise errors.FileMissing("the table's log is missing")
        created_us, schema, bases = rows[0]
        return created_us, schema, Bases.read(bases)

    # -- what we know
    def _is_fresh(self) -> bool:
        return _now_s() - self._heard_s < FRESH_S

    async def _is_cut(self, n: Version) -> bool:
        """Whether what was just put at n went where the log had been cut already; then it is taken away again."""
        if n > (await self._table())[2].floor:
            return False
        await self._aside(self._drop_part, n // PART)
        return True

    async def _check_floor(self, version: Version) -> None:
        if version < (await self._table())[2].floor:
            raise LogTrimmed

    def _heard(self, at_s: float, newest: Version) -> None:
        """`newest` was there at a time, or later."""
        self._heard_s = max(self._heard_s, at_s)
        for part in range(self._known // PART, newest // PART):
            self._full_s.setdefault(part, _now_s())
        self._known = max(self._known, newest)

    async def _aside(self, work: Callable[[Unpack[Ts]], T], *values: *Ts) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *values)


def _base_name(version: Version) -> str:
    return f"_log/base/{version}"


def _id_of(stood: Row) -> str:
    """The row in the way comes with all its columns, the key first: uid, part, n, body, file, id by name."""
    return str(stood[-1])


def _now_s() -> float:
    """Time that goes on while this process, or the machine, is stopped."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
