"""Which files a table has: rows in partitions by the hour a file was begun in, written before its first chunk.

A removed file's row is marked, not deleted. Once most of an old hour's files are gone, the rest moves to the current hour and the
partition goes as one.
"""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from millrace import errors
from svc_storage.adapters.cassandra.objects import settle
from svc_storage.adapters.cassandra.session import Pending, Session

HOUR_US = 3_600_000_000
OLD_HOURS = 26
"""Nobody begins a file in an hour so long ago."""

_NOTE = "INSERT INTO paths (uid, bucket, path, modified_us, parts) VALUES (?, ?, ?, ?, ?)"
_MARK = "UPDATE paths SET parts = 0 WHERE uid = ? AND bucket = ? AND path = ?"
_LIST = "SELECT path, modified_us, parts FROM paths WHERE uid = ? AND bucket = ?"
_DROP = "DELETE FROM paths WHERE uid = ? AND bucket = ?"
_BUCKETS = "SELECT buckets FROM tables WHERE uid = ?"
_SET_BUCKETS = "UPDATE tables SET buckets = ? WHERE uid = ? IF buckets = ?"
STATEMENTS = (_NOTE, _MARK, _LIST, _DROP, _BUCKETS, _SET_BUCKETS)


@dataclass(frozen=True, slots=True)
class Listed:
    """`parts`: partitions of chunks that may be there; 0: the file was removed."""

    path: str
    modified_us: int
    parts: int
    bucket: int


class Paths:
    """Of the table `uid`. Everything blocks: for worker threads."""

    def __init__(self, session: Session, uid: str) -> None:
        self._session, self._uid = session, uid
        self._open: set[int] = set()  # buckets that are in the table's list
        self._opening = threading.Lock()

    def note(self, path: str, parts: int) -> tuple[int, Pending]:
        """A file is about to have so many partitions; its bucket, and the note on its way: what is sent after it arrives after it."""
        now_us = time.time_ns() // 1000
        bucket = now_us // HOUR_US
        self._ensure(bucket)
        return bucket, self._session.start(_NOTE, self._uid, bucket, path, now_us, parts)

    def note_again(self, path: str, bucket: int, parts: int) -> Pending:
        """It gets more."""
        return self._session.start(_NOTE, self._uid, bucket, path, time.time_ns() // 1000, parts)

    def list(self) -> Sequence[Listed]:
        """Every row, removed files included; a path that was put several times has several."""
        buckets = self._buckets()
        asked = [(hour, self._session.start(_LIST, self._uid, hour)) for hour in buckets]
        return [Listed(path, at, parts, hour) for hour, answer in asked for path, at, parts in answer.rows()]

    def mark_removed(self, rows: Iterable[Listed]) -> None:
        settle([self._session.start(_MARK, self._uid, row.bucket, row.path) for row in rows])

    def tidy(self) -> None:
        """Old hours that are mostly gone go."""
        now = time.time_ns() // 1000 // HOUR_US
        by_bucket: defaultdict[int, list[Listed]] = defaultdict(list)
        for row in self.list():
            by_bucket[row.bucket].append(row)
        for bucket in self._buckets():
            rows = by_bucket[bucket]
            kept = [row for row in rows if row.parts]
            if bucket > now - OLD_HOURS or (kept and len(kept) * 2 > len(rows)):
                continue
            if kept:
                self._ensure(now)
                settle([self._session.start(_NOTE, self._uid, now, r.path, r.modified_us, r.parts) for r in kept])
            self._session.wait(_DROP, self._uid, bucket)
            self._forget(bucket)

    def drop(self) -> None:
        """The table is gone."""
        for bucket in self._buckets():
            self._session.wait(_DROP, self._uid, bucket)

    def _ensure(self, bucket: int) -> None:
        if bucket in self._open:
            return
        with self._opening:
            if bucket not in self._open:
                self._change(lambda buckets: buckets | {bucket})
                self._open.add(bucket)

    def _forget(self, bucket: int) -> None:
        self._change(lambda buckets: buckets - {bucket})
        self._open.discard(bucket)

    def _buckets(self) -> Sequence[int]:
        rows = self._session.wait(_BUCKETS, self._uid, serial=True)
        return sorted(json.loads(rows[0][0])) if rows and rows[0][0] else []

    def _change(self, change: Callable[[set[int]], set[int]]) -> None:
        for _ in range(50):
            rows = self._session.wait(_BUCKETS, self._uid, serial=True)
            if not rows or rows[0][0] is None:
                raise errors.FileMissing("the table is gone")
            wanted = json.dumps(sorted(change(set(json.loads(rows[0][0])))))
            if wanted == rows[0][0]:
                return
            try:
                if self._session.wait_cas(_SET_BUCKETS, wanted, self._uid, rows[0][0]) is None:
                    return
            except errors.OutcomeUnknown:
                continue
        raise errors.StoreUnavailable("the table's list of files is being changed by others", retry_after_ms=500)
