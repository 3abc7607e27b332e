"""A table's maintenance without async."""

from __future__ import annotations

import datetime as dt
from collections.abc import Coroutine, Sequence
from typing import Any, Protocol, TypeVar

from millrace.client.maintenance import Outcome, TableMaintenance
from millrace.client.where import Where
from millrace.storage.v1 import maintenance_pb2, storage_pb2

T = TypeVar("T")


class Loop(Protocol):
    """Where the work is done."""

    def run(self, work: Coroutine[Any, Any, T]) -> T: ...


class BlockingMaintenance:
    """As `maintenance.TableMaintenance`."""

    def __init__(self, loop: Loop, table: TableMaintenance) -> None:
        self._loop, self._table = loop, table

    def compact(self, *, run_id: str = "") -> Outcome:
        return self._loop.run(self._table.compact(run_id=run_id))

    def expire(
        self,
        *,
        older_than: dt.datetime | None = None,
        keep: int = 0,
        break_readers: Sequence[str] = (),
        run_id: str = "",
    ) -> Outcome:
        work = self._table.expire(older_than=older_than, keep=keep, break_readers=break_readers, run_id=run_id)
        return self._loop.run(work)

    def restore(self, version: int | None = None, *, as_of: dt.datetime | None = None, run_id: str = "") -> Outcome:
        return self._loop.run(self._table.restore(version, as_of=as_of, run_id=run_id))

    def erase(
        self,
        where: Where | None = None,
        *,
        keys: Sequence[Sequence[Any]] = (),
        keep_derived: bool = False,
        erase_unjudged: bool = False,
        grace: dt.timedelta | None = None,
        run_id: str = "",
    ) -> Outcome:
        work = self._table.erase(
            where,
            keys=keys,
            keep_derived=keep_derived,
            erase_unjudged=erase_unjudged,
            grace=grace,
            run_id=run_id,
        )
        return self._loop.run(work)

    def check(self, *, sample: float = 1.0, repair: bool = False, run_id: str = "") -> Outcome:
        return self._loop.run(self._table.check(sample=sample, repair=repair, run_id=run_id))

    def export(self, destination: str, *, version: int | None = None, run_id: str = "") -> Outcome:
        return self._loop.run(self._table.export(destination, version=version, run_id=run_id))

    def import_from(self, source: str, *, run_id: str = "") -> Outcome:
        return self._loop.run(self._table.import_from(source, run_id=run_id))

    def writers(self) -> list[maintenance_pb2.TableWriter]:
        return self._loop.run(self._table.writers())

    def delete_writer(self, writer_id: str) -> int:
        return self._loop.run(self._table.delete_writer(writer_id))

    def retain(
        self, *, rows: dt.timedelta | None = None, exact: bool = False, versions: dt.timedelta | None = None
    ) -> storage_pb2.Table:
        return self._loop.run(self._table.retain(rows=rows, exact=exact, versions=versions))
