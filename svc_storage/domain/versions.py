"""The log as readers and the committer see it: published versions, each reachable again while it is kept."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from millrace import errors
from svc_storage.domain.writing.writers import advance
from svc_storage.ports import (
    MERGED,
    Commit,
    CommitKind,
    Committed,
    DataFile,
    DeadLetterFile,
    LogTail,
    Snapshot,
    TableView,
    Version,
    WriterState,
)

_CACHED = 64


def fold(before: Snapshot, committed: Committed) -> Snapshot:
    """The table after one more commit. Files keep the order of commits; a compaction's go where its first input stood."""
    commit = committed.commit
    return Snapshot(
        version=committed.version,
        time_us=max(before.time_us, commit.time_us),
        schema=commit.schema or before.schema,
        schema_id=before.schema_id if commit.schema is None else commit.schema_id or before.schema_id + 1,
        files=_files(before.files, commit) if commit.adds or commit.removes else before.files,
        writers=_writers(before.writers, commit) if commit.writers else before.writers,
        dead_letters=_dead_letters(before, commit),
        event_time_high_us=_higher(before.event_time_high_us, commit.event_time_high_us),
    )


def _files(before: Mapping[str, DataFile], commit: Commit) -> Mapping[str, DataFile]:
    gone = {file.path for file in commit.removes}
    if commit.kind is not CommitKind.COMPACT:
        kept = {path: file for path, file in before.items() if path not in gone} if gone else dict(before)
        kept.update((file.path, file) for file in commit.adds)
        return kept
    after: dict[str, DataFile] = {}
    placed = False
    for path, file in before.items():
        if path not in gone:
            after[path] = file
        elif not placed:
            after.update((added.path, added) for added in commit.adds)
            placed = True
    if not placed:
        after.update((added.path, added) for added in commit.adds)
    return after


def _dead_letters(before: Snapshot, commit: Commit) -> tuple[DeadLetterFile, ...]:
    if not commit.dead_letters_removed:
        return (*before.dead_letters, *commit.dead_letters)
    gone = {file.path for file in commit.dead_letters_removed}
    return (*(file for file in before.dead_letters if file.path not in gone), *commit.dead_letters)


def _writers(before: Mapping[str, WriterState], commit: Commit) -> Mapping[str, WriterState]:
    after = dict(before)
    for name, moved in commit.writers.items():
        stored = before.get(name)
        after[name] = advance(stored, moved) if stored else moved
    return after


def _higher(left: int | None, right: int | None) -> int | None:
    return max((value for value in (left, right) if value is not None), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionEvent:
    """What versions [first, number] did, as WatchTable tells it. `positions`: the writers that moved, with where they stand."""

    first: Version
    number: Version
    kind: CommitKind
    rows_added: int
    rows_removed: int
    rows_dead_lettered: int
    commit_time_us: int
    positions: Mapping[str, WriterState]
    schema_changed: bool
    trace_context: str


_WEIGHT = (
    CommitKind.FENCE,
    CommitKind.COMPACT,
    CommitKind.SCHEMA,
    CommitKind.APPEND,
    CommitKind.MERGE,
    CommitKind.RESTORE,
)


def summarise(commits: Sequence[Committed]) -> VersionEvent:
    """One event for consecutive commits, at least one. The kind is the weightiest: a merge over an append over a fence."""
    newest = commits[-1].commit
    positions: dict[str, WriterState] = {}
    for committed in commits:
        positions.update(committed.commit.writers)
    positions.pop(MERGED, None)
    return VersionEvent(
        first=commits[0].version,
        number=commits[-1].version,
        kind=max((committed.commit.kind for committed in commits), key=_WEIGHT.index),
        rows_added=sum(committed.commit.rows_added for committed in commits),
        rows_removed=sum(committed.commit.rows_removed for committed in commits),
        rows_dead_lettered=sum(file.row_count for committed in commits for file in committed.commit.dead_letters),
        commit_time_us=newest.time_us,
        positions=positions,
        schema_changed=any(committed.commit.schema is not None for committed in commits),
        trace_context=newest.trace_context,
    )


def newest_first(view: TableView, *, before: Version, limit: int) -> Sequence[VersionEvent]:
    """The versions below `before` that can still be told, newest first, at most `limit`. The oldest one only is a state: no event."""
    through = min(before - 1, view.head)
    after = max(view.oldest, through - limit)
    return (
        [summarise([committed]) for committed in reversed(view.commits_in(after, through))] if through > after else []
    )


class LogView:
    """Published versions in memory: the oldest base, every commit after it, the newest state. Single-threaded (the event loop)."""

    def __init__(self, tail: LogTail) -> None:
        self.closed_below: Version = 0
        """Versions that somebody expired expressly."""
        self.erased_below: Version = 0
        """Versions that an erasure has closed: not even a plan under way reads them."""
        self.reset(tail)

    def reset(self, tail: LogTail) -> None:
        """Everything from what the log holds: at the opening, and when it was cut above what is known here."""
        self._base = tail.base
        self._commits: list[Committed] = []
        self._numbers: dict[str, Version] = {}  # by commit id
        self._head = tail.base
        self._cache: OrderedDict[Version, Snapshot] = OrderedDict()
        self._expired_below: Version = 0
        self.removed_us: dict[str, int] = dict(tail.removed_us)
        for committed in tail.commits:
            self.publish(committed)

    def committed(self, commit_id: str) -> Committed | None:
        """The commit of that id, None when it is not in the log, or cut from it."""
        version = self._numbers.get(commit_id, 0)
        found = self._between(version - 1, version) if version > self.base_version else []
        return found[0] if found else None

    @property
    def head(self) -> Snapshot:
        return self._head

    @property
    def base_version(self) -> Version:
        """Where the log begins; older than `oldest` when files of its first versions are gone."""
        return self._base.version

    @property
    def oldest(self) -> Version:
        return max(self._base.version, self._expired_below)

    @property
    def oldest_time_us(self) -> int:
        return self.at(self.oldest).time_us

    def expire(self, before_us: int, *, reader: Version | None = None) -> None:
        """Files that left before this time may be removed: the versions that still had one are not served any more. Those that left after
        version `reader` are kept for it."""
        for committed in self._commits:
            if committed.commit.time_us >= before_us or (reader is not None and committed.version > reader):
                break
            if committed.commit.removes:
                self._expired_below = max(self._expired_below, committed.version)

    def publish(self, committed: Committed) -> None:
        """The next version. Raises ValueError when it is not the next."""
        if committed.version != self._head.version + 1:
            raise ValueError(f"version {committed.version} does not follow {self._head.version}")
        committed = _with_row_counts(committed, self._head.files)
        self._remember(self._head)
        self._head = fold(self._head, committed)
        self._commits.append(committed)
        self._numbers[committed.commit.id] = committed.version
        self._note_removed(committed.commit)

    def _note_removed(self, commit: Commit) -> None:
        gone = [file.path for file in commit.removes] + [file.path for file in commit.dead_letters_removed]
        self.removed_us.update((path, commit.time_us) for path in gone)
        for file in commit.adds:  # a restored one
            self.removed_us.pop(file.path, None)
        self.closed_below = max(self.closed_below, commit.expire_below)
        self._expired_below = max(self._expired_below, commit.expire_below)
        if commit.gone_us:
            self.erased_below = max(self.erased_below, commit.expire_below)
            for path, left_us in self.removed_us.items():
                self.removed_us[path] = -min(-left_us, commit.gone_us) if left_us < 0 else -commit.gone_us

    def at(self, version: Version) -> Snapshot:
        """Raises VersionExpired (metadata oldest_version), VersionInFuture."""
        return self._at(version, self.oldest)

    def known(self, version: Version) -> Snapshot | None:
        """A version that the log still has, also when it is not served any more."""
        return self._at(version, self.base_version) if self.base_version <= version <= self._head.version else None

    def left_after(self, version: Version) -> set[str]:
        """Files that a later version than this one took out."""
        later = self._between(max(version, self.base_version), self._head.version)
        return {file.path for committed in later for file in committed.commit.removes}

    def goes_us(self, path: str, keep_us: int) -> int | None:
        """After this time a file that has left may be removed, kept for `keep_us` if nothing else was said; None: it has not left."""
        left_us = self.removed_us.get(path)
        return None if left_us is None else -left_us if left_us < 0 else left_us + keep_us

    def _at(self, version: Version, lowest: Version) -> Snapshot:
        if version == self._head.version:
            return self._head
        self._check(version, lowest=lowest)
        if found := self._cache.get(version):
            self._cache.move_to_end(version)
            return found
        near = max((known for known in self._cache if known <= version), default=-1)
        snapshot = self._cache.get(near, self._base)
        for committed in self._between(snapshot.version, version):
            snapshot = fold(snapshot, committed)
        self._remember(snapshot)
        return snapshot

    def commits_in(self, after: Version, through: Version) -> Sequence[Committed]:
        """(after, through]. Raises VersionExpired, VersionInFuture."""
        self._check(through, lowest=0)
        if after < self.oldest and not (after < 0 and self.oldest == 0):
            raise self._expired(after)
        return tuple(self._between(max(after, self.oldest), through))

    def version_at(self, time_us: int) -> Version:
        """The newest version committed at or before a time. Raises VersionExpired."""
        if time_us < self._base.time_us:
            raise self._expired(self.oldest)
        found = self.base_version + bisect_right(self._commits, time_us, key=lambda committed: committed.commit.time_us)
        if found < self.oldest:
            raise self._expired(found)
        return found

    def known_commits(self) -> Sequence[Committed]:
        """All that the log still has, ascending."""
        return tuple(self._commits)

    def before(self, floor: Version) -> tuple[Snapshot, Sequence[Committed]]:
        """What `cut` would forget: the base, and the commits after it below `floor`."""
        return self._base, self._between(self.base_version, floor - 1)

    def cut(self, floor: Version) -> None:
        """Forgets what lies below `floor`, a version that is kept."""
        base = self._base
        for committed in self._between(self.base_version, floor):
            base = fold(base, committed)
        for committed in self._between(self.base_version, floor):
            self._numbers.pop(committed.commit.id, None)
        self._commits = self._between(floor, self._head.version)
        self._base = base
        for version in [known for known in self._cache if known <= floor]:
            del self._cache[version]

    def _between(self, after: Version, through: Version) -> list[Committed]:
        """Commits of (after, through]; `after` at or above the base."""
        start = after - self.base_version
        return self._commits[start : max(through - self.base_version, start)]

    def _remember(self, snapshot: Snapshot) -> None:
        self._cache[snapshot.version] = snapshot
        while len(self._cache) > _CACHED:
            self._cache.popitem(last=False)

    def _check(self, version: Version, *, lowest: Version) -> None:
        if version > self._head.version:
            raise errors.VersionInFuture(
                f"version {version} does not exist yet",
                metadata={"version": str(self._head.version)},
                hint="watch the table",
            )
        if version < lowest:
            raise self._expired(version)

    def _expired(self, version: Version) -> errors.VersionExpired:
        return errors.VersionExpired(
            f"version {version} was cleaned up",
            metadata={"oldest_version": str(self.oldest)},
            hint="read in full, go on from there",
        )


def _with_row_counts(committed: Committed, files: Mapping[str, DataFile]) -> Committed:
    """Delta's remove actions carry no row count: taken from the file that goes."""
    removes = committed.commit.removes
    if not removes or all(file.row_count for file in removes):
        return committed
    known = tuple(files.get(file.path, file) for file in removes)
    return Committed(committed.version, replace(committed.commit, removes=known))
