"""Measures any port: one generic wrapper, told by the names of its methods."""

from __future__ import annotations

import inspect
import time
from collections.abc import Sequence
from typing import Any, TypeVar, cast

import pyarrow as pa

from millrace.errors import OutcomeUnknown
from millrace.server import names
from millrace.server.telemetry import Telemetry
from svc_storage.ports import Backend, CommitLog, TableFiles, VersionTaken

P = TypeVar("P")
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Signals:
    """The instruments of a storage."""

    def __init__(self, telemetry: Telemetry) -> None:
        meter = telemetry.meter
        self.operations = meter.create_histogram(
            names.BACKEND_DURATION, "s", "A call to the store.", explicit_bucket_boundaries_advisory=_BUCKETS
        )
        self.commits = meter.create_histogram(
            names.COMMIT_DURATION, "s", "One commit to the log.", explicit_bucket_boundaries_advisory=_BUCKETS
        )
        self.conflicts = meter.create_counter(
            names.COMMIT_CONFLICTS, "1", "Commits that lost the race for their number."
        )
        self.unknown = meter.create_counter(names.COMMIT_UNKNOWN_OUTCOMES, "1", "Commits whose answer was lost.")

    def note(self, backend: str, operation: str, seconds: float, error: BaseException | None) -> None:
        self.operations.record(seconds, {"backend": backend, "op": operation})
        if operation != "append":
            return
        if isinstance(error, VersionTaken):
            self.conflicts.add(1)
        elif isinstance(error, OutcomeUnknown):
            self.unknown.add(1)
        elif error is None:
            self.commits.record(seconds)


class _Observed:
    """Stands for `inner`: its coroutines are timed, the rest is passed through."""

    def __init__(self, inner: object, backend: str, signals: Signals) -> None:
        self._inner, self._backend, self._signals = inner, backend, signals

    def __getattr__(self, name: str) -> Any:
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

        setattr(self, name, timed)
        return timed


class ObservedBackend:
    """A backend whose tables are measured."""

    def __init__(self, inner: Backend, signals: Signals) -> None:
        self._inner, self._signals = inner, signals
        self.name, self.shared = inner.name, inner.shared

    async def create(self, uid: str, schema: pa.Schema, *, time_us: int) -> None:
        await self._inner.create(uid, schema, time_us=time_us)

    def open(self, uid: str) -> tuple[CommitLog, TableFiles]:
        log, files = self._inner.open(uid)
        return self._observed(log), self._observed(files)

    async def drop(self, uid: str) -> None:
        await self._inner.drop(uid)

    async def list_uids(self) -> Sequence[str]:
        return await self._inner.list_uids()

    def _observed(self, port: P) -> P:
        return cast(P, _Observed(port, self.name, self._signals))
