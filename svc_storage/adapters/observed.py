"""Measures any port: one generic wrapper, told by the names of its methods; and what the open tables are asked."""

from __future__ import annotations

import inspect
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar, cast

import pyarrow as pa

from millrace.errors import OutcomeUnknown
from millrace.server import names
from millrace.server.telemetry import Reading, TableLabels, Telemetry
from svc_storage.domain.opened import Opened
from svc_storage.domain.writing import dead_letters
from svc_storage.ports import Backend, Clock, CommitLog, DataFile, TableFiles, VersionTaken

P = TypeVar("P")
_KNOWN_REASONS = 40
"""A source may name its own: beyond so many they count as one."""


class Signals:
    """The instruments of a storage."""

    def __init__(self, telemetry: Telemetry) -> None:
        meter = telemetry.meter
        self._telemetry = telemetry
        self.operations = telemetry.seconds(names.BACKEND_DURATION, "A call to the store.")
        self.commits = telemetry.seconds(names.COMMIT_DURATION, "One commit to the log.")
        self.conflicts = meter.create_counter(
            names.COMMIT_CONFLICTS, "{commit}", "Commits that lost the race for their number."
        )
        self.unknown = meter.create_counter(names.COMMIT_UNKNOWN_OUTCOMES, "{commit}", "Commits whose answer was lost.")
        self.letters = meter.create_counter(names.DEAD_LETTERS, "{row}", "Rows that became dead letters, by reason.")
        self._reasons: set[str] = set()

    def note(self, backend: str, operation: str, seconds: float, error: BaseException | None) -> None:
        self.operations.record(seconds, {names.BACKEND: backend, names.OPERATION: operation})
        if operation != "append":
            return
        if isinstance(error, VersionTaken):
            self.conflicts.add(1)
        elif isinstance(error, OutcomeUnknown):
            self.unknown.add(1)
        elif error is None:
            self.commits.record(seconds)

    def note_letters(self, batches: Iterable[pa.RecordBatch]) -> None:
        reasons = Counter(reason for batch in batches for reason in batch.column("reason").to_pylist())
        for reason, rows in reasons.items():
            if len(self._reasons) < _KNOWN_REASONS:
                self._reasons.add(reason)
            self.letters.add(rows, {names.LETTER_REASON: reason if reason in self._reasons else "OTHER"})

    def watch(self, opened: Opened, clock: Clock, labels: TableLabels) -> None:
        """What is read from the open tables whenever metrics leave the process."""

        def ages() -> Iterable[Reading]:
            now = clock.now_us()
            for table in opened.now_open():
                if labels.names(table.row.name) and (committed := table.versions.head.time_us):
                    yield max(0, now - committed) / 1e6, labels.of(table.row.name)

        self._telemetry.gauge(
            names.VERSION_AGE, "s", "Since the newest version of a table that metrics may name.", ages
        )
        self._telemetry.gauge(
            names.INFLIGHT_BYTES,
            "By",
            "Batches taken and not yet in a commit.",
            lambda: [(sum(table.committer.waiting_bytes for table in opened.now_open()), {})],
        )


class _Observed:
    """Stands for `inner`: its coroutines are timed, the rest is passed through."""

    def __init__(self, inner: object, backend: str, signals: Signals) -> None:
        self._inner, self._backend, self._signals = inner, backend, signals

    def __getattr__(self, name: str) -> Any:
        timed = self._timed(name)
        setattr(self, name, timed)
        return timed

    def _timed(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not inspect.iscoroutinefunction(found):
            return found

        async def timed(*args: Any, **more: Any) -> Any:
            started, failure = time.perf_counter(), None
            try:
                return await found(*args, **more)
            except BaseException as error:
                failure = error
                raise
            finally:
                self._signals.note(self._backend, name, time.perf_counter() - started, failure)

        return timed


class _ObservedFiles(_Observed):
    """Counts the dead letters that were written, too."""

    async def write(
        self, path: str, batches: Iterable[pa.RecordBatch], schema: pa.Schema, *, level: int = 0
    ) -> DataFile:
        written = await self._write(path, batches, schema, level=level)
        # New letters come as one batch at hand; an erasure streams the ones that it keeps.
        if path.startswith(dead_letters.FOLDER) and isinstance(batches, Sequence):
            self._signals.note_letters(batches)
        return written

    async def _write(self, *args: Any, **more: Any) -> DataFile:
        timed: Any = self._timed("write")
        found: DataFile = await timed(*args, **more)
        return found


class ObservedBackend:
    """A backend whose tables are measured."""

    def __init__(self, inner: Backend, signals: Signals) -> None:
        self._inner, self._signals = inner, signals
        self.name, self.shared = inner.name, inner.shared

    async def create(self, uid: str, schema: pa.Schema, *, time_us: int) -> None:
        await self._inner.create(uid, schema, time_us=time_us)

    def open(self, uid: str) -> tuple[CommitLog, TableFiles]:
        log, files = self._inner.open(uid)
        return self._observed(log), cast(TableFiles, _ObservedFiles(files, self.name, self._signals))

    async def drop(self, uid: str) -> None:
        await self._inner.drop(uid)

    async def list_uids(self) -> Sequence[str]:
        return await self._inner.list_uids()

    def _observed(self, port: P) -> P:
        return cast(P, _Observed(port, self.name, self._signals))
