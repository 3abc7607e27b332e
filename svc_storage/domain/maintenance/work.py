"""What a maintenance run is asked to do, checked when it is asked and done when a worker takes it up."""

from __future__ import annotations

from dataclasses import dataclass

from millrace import errors
from svc_storage.domain.definition import TableDefinition
from svc_storage.domain.maintenance.checking import Checker, CheckWish
from svc_storage.domain.maintenance.compacting import compact_all
from svc_storage.domain.maintenance.erasing import Erasure
from svc_storage.domain.maintenance.expiring import ExpireWish, expire
from svc_storage.domain.maintenance.lineage import Everywhere
from svc_storage.domain.maintenance.reporting import Fault, TableReport, Teller
from svc_storage.domain.maintenance.restoring import restore, version_of
from svc_storage.domain.opened import Opened
from svc_storage.domain.reading.predicates import And, Compare, Literal, Op, Or, Predicate, bind
from svc_storage.domain.transfer.work import ExportTask, ImportTask, Transfers
from svc_storage.domain.upkeep import Policy
from svc_storage.ports import Catalog, Clock, Lineage, ReaderMarks, TableRow, Version

GRACE_US = 15 * 60 * 1_000_000
MAX_KEYS = 500


@dataclass(frozen=True, slots=True)
class CompactTask:
    """All levels now."""


@dataclass(frozen=True, slots=True)
class RestoreTask:
    """One of the two is set."""

    version: Version | None = None
    as_of_us: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EraseTask:
    """`predicate`, or `keys` of the primary key in its order. Not bound to the columns yet."""

    predicate: Predicate | None = None
    keys: tuple[tuple[Literal, ...], ...] = ()
    keep_derived: bool = False
    unjudged_too: bool = False
    grace_us: int = GRACE_US


Task = CompactTask | ExpireWish | RestoreTask | EraseTask | CheckWish | ExportTask | ImportTask


class Maintenance:
    def __init__(
        self,
        opened: Opened,
        catalog: Catalog,
        readers: ReaderMarks,
        lineage: Lineage,
        clock: Clock,
        policy: Policy,
        transfers: Transfers,
    ) -> None:
        self._opened, self._catalog, self._readers = opened, catalog, readers
        self._lineage, self._clock, self._policy = lineage, clock, policy
        self._transfers = transfers

    async def check(self, table: str, task: Task) -> None:
        """What can be said before anything is done. Raises TableNotFound, FieldInvalid, NoPrimaryKey, VersionExpired, VersionInFuture."""
        if isinstance(task, ExportTask | ImportTask):
            await self._transfers.check(table, task)
            return
        row = await self._row(table)
        if isinstance(task, EraseTask):
            predicate_of(task, TableDefinition.from_json(row.body))
        elif isinstance(task, RestoreTask):
            version_of(await self._opened.fresh(table), task.version, task.as_of_us)

    async def run(self, table: str, task: Task, teller: Teller, *, run: str, principal: str) -> None:
        """`run`: its id, which begins the ids of its commits. Raises what ends the run."""
        if isinstance(task, CheckWish):
            await self._check(table, task, teller)
            return
        if isinstance(task, ExportTask | ImportTask):
            await self._transfers.run(table, task, teller, run=run, principal=principal)
            return
        found = await self._opened.fresh(table)
        keep_us = self._policy.files_us(found.definition)
        match task:
            case CompactTask():
                await compact_all(found, teller, self._clock, run=f"{run}/")
            case ExpireWish():
                await expire(found, task, self._readers, teller, self._clock, keep_files_us=keep_us)
            case RestoreTask():
                version = version_of(found, task.version, task.as_of_us)
                await restore(found, version, teller, self._clock, run=f"{run}/", keep_files_us=keep_us)
            case EraseTask():
                await self._erase(table, found.definition, task, teller, run, principal)

    async def _erase(
        self, table: str, definition: TableDefinition, task: EraseTask, teller: Teller, run: str, principal: str
    ) -> None:
        what = Erasure(
            predicate=predicate_of(task, definition),
            run=f"{run}/",
            grace_us=task.grace_us,
            collect_us=self._policy.collect_every_us,
            unjudged_too=task.unjudged_too,
        )
        everywhere = Everywhere(self._opened, self._lineage, teller, self._clock)
        await everywhere.erase(table, what, run=run, principal=principal, derived=not task.keep_derived)

    async def _check(self, table: str, wish: CheckWish, teller: Teller) -> None:
        """A table that cannot be opened has a fault, too."""
        await self._row(table)
        try:
            found = await self._opened.fresh(table)
        except errors.Broken as damaged:
            await teller.fault(Fault(code="LOG_DAMAGED", message=damaged.message))
            await teller.report(TableReport(table=table, notes=("the table cannot be opened",)))
            return
        await Checker(found, wish, teller, self._clock).check()

    async def _row(self, table: str) -> TableRow:
        if row := await self._catalog.get_table(table):
            return row
        raise errors.TableNotFound(f"`{table}` does not exist", field="table", hint="list the tables")


def predicate_of(task: EraseTask, definition: TableDefinition) -> Predicate:
    """Bound to the table's columns. Raises FieldInvalid, NoPrimaryKey."""
    if task.predicate is not None:
        return bind(task.predicate, definition.schema)
    key = definition.primary_key
    if not key:
        raise errors.NoPrimaryKey("the table has no primary key", field="keys", hint="name the rows by a predicate")
    either: list[Predicate] = []
    for index, values in enumerate(task.keys):
        if len(values) != len(key):
            raise errors.FieldInvalid(f"a key has {len(key)} values", field=f"keys.keys[{index}].values")
        parts = tuple(Compare(column, Op.EQ, value) for column, value in zip(key, values, strict=True))
        either.append(parts[0] if len(parts) == 1 else And(parts))
    return bind(Or(tuple(either)), definition.schema, field="keys")
