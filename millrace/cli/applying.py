"""Makes a pipeline file so: what is there already and equal is left alone, everything else is created or changed.

Order: tables, sources that run once (and their runs), transforms, continuous sources, dashboards, the pipeline itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import pyarrow as pa

from millrace.arrow.widening import widens
from millrace.cli.failures import Failed
from millrace.cli.grid import counted
from millrace.cli.kinds import (
    get_dashboard,
    get_pipeline,
    get_resource,
    get_source,
    get_table,
    get_transform,
    short_name,
)
from millrace.cli.progress import Reporter
from millrace.cli.runs import run_id, run_once
from millrace.cli.session import Session
from millrace.cli.terminal import note
from millrace.client.resources import Resources, new_request_id
from millrace.errors import MillraceError, Missing
from millrace.extract.v1 import extract_pb2
from millrace.pipeline.spec import Pipeline
from millrace.storage.v1 import maintenance_pb2, storage_pb2
from millrace.transform.v1 import transform_pb2
from millrace.types.v1 import run_pb2, types_pb2
from millrace.viz.v1 import viz_pb2
from millrace.wire.schema import schema_from_proto


class Outcome(Enum):
    """What applying one part did, or would do."""

    CREATED = "created"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    RAN = "ran"


@dataclass(frozen=True, slots=True)
class Applied:
    """One part. `detail`: for people, perhaps empty."""

    kind: str
    name: str
    outcome: Outcome
    detail: str = ""


Told = Callable[[Applied], None]


@dataclass(slots=True)
class Applier:
    """Applies one pipeline. `dry_run` reads and compares, and changes nothing."""

    session: Session
    reporter: Reporter
    tell: Told
    dry_run: bool = False
    _changed: bool = field(default=False)

    async def apply(self, pipeline: Pipeline) -> None:
        """Raises millrace.errors at the first part that is refused; parts before it stay applied, a repeat goes on there."""
        await self._check_tables(pipeline)
        steps: list[tuple[str, Callable[[Any], Awaitable[None]], Iterable[Any]]] = [
            ("table", self._table, pipeline.tables),
            ("source", self._source, [source for source in pipeline.sources if not source.spec.continuous]),
            ("transform", self._transform, pipeline.transforms),
            ("source", self._source, [source for source in pipeline.sources if source.spec.continuous]),
            ("dashboard", self._dashboard, pipeline.dashboards),
        ]
        for kind, step, parts in steps:
            for part in parts:
                with _named(f"{kind} `{short_name(part.name)}`"):
                    await step(part)
        if pipeline.name:
            await self._pipeline(pipeline)

    async def _check_tables(self, pipeline: Pipeline) -> None:
        """Every source's table is in the file or exists: known before anything is changed."""
        declared = {table.name for table in pipeline.tables} | {t.spec.output for t in pipeline.transforms}
        for source in pipeline.sources:
            if source.spec.table not in declared:
                await get_table(self.session, source.spec.table)

    # -- tables --------------------------------------------------------------------------------------------------------
    async def _table(self, wanted: storage_pb2.Table) -> None:
        name = short_name(wanted.name)
        found = await _or_none(get_table(self.session, wanted.name))
        if found is None:
            if not self.dry_run:
                create = storage_pb2.CreateTableRequest(request_id=new_request_id(), table=wanted)
                await self._put("storage", self.session.tables.CreateTable, create, storage_pb2.CreateTableResponse)
            self.tell(Applied("table", name, Outcome.CREATED))
            return
        columns = _evolved(name, found, wanted)
        same = _soft(found) == _soft(wanted) and found.retention == (_retention(found, wanted) or found.retention)
        if columns == found.schema and same:
            self.tell(Applied("table", name, Outcome.UNCHANGED))
            return
        if not self.dry_run:
            changed = storage_pb2.Table(
                name=wanted.name,
                etag=found.etag,
                schema=columns,
                primary_key=found.primary_key,
                description=wanted.description,
                rules=wanted.rules,
                event_time_column=wanted.event_time_column,
                retention=_retention(found, wanted),
            )
            update = storage_pb2.UpdateTableRequest(request_id=new_request_id(), table=changed)
            await self._put("storage", self.session.tables.UpdateTable, update, storage_pb2.UpdateTableResponse)
        self.tell(Applied("table", name, Outcome.CHANGED))

    # -- sources -------------------------------------------------------------------------------------------------------
    async def _source(self, wanted: extract_pb2.Source) -> None:
        found = await _or_none(get_source(self.session, wanted.name))
        outcome = _compared(found, wanted)
        stored = found
        if outcome is not Outcome.UNCHANGED and not self.dry_run:
            put = extract_pb2.PutSourceRequest(request_id=new_request_id(), source=wanted)
            answer = await self._put("extract", self.session.extract.PutSource, put, extract_pb2.PutSourceResponse)
            stored = answer.source
        self.tell(Applied("source", short_name(wanted.name), outcome))
        runs = not wanted.spec.continuous and wanted.spec.WhichOneof("connector") != "push"
        if runs and stored is not None and not self.dry_run:
            await self._run(stored)

    async def _run(self, source: extract_pb2.Source) -> None:
        if (request := await self._next_run(source)) is None:
            return
        name = short_name(source.name)
        task = self.reporter.start(name)

        def observe(progress: run_pb2.RunProgress) -> None:
            dead = counted(progress.rows_dead_lettered, "dead letters") if progress.rows_dead_lettered else ""
            self.reporter.update(task, progress.rows_written, progress.fraction, dead)

        def warned(warning: run_pb2.RunWarning) -> None:
            note(f"{name}: {warning.message} [{warning.reason}]", "yellow")

        finished = await run_once(self.session, source, request, observe, warned)
        said = self.reporter.finish(task)
        dead = finished.progress.rows_dead_lettered
        self.tell(Applied("source", name, Outcome.RAN, said + (f", {counted(dead, 'dead letters')}" if dead else "")))

    async def _next_run(self, source: extract_pb2.Source) -> str | None:
        """The id to run (or attach) under; None when this spec has been run to its end already."""
        for attempt in range(1000):
            request = run_id(source, attempt)
            name = f"{source.name.split('/sources/')[0]}/runs/{request}"
            resource = await _or_none(get_resource(self.session, name))
            if resource is None:
                return request
            run = run_pb2.Run()
            resource.status.Unpack(run)
            if run.state == run_pb2.RUN_STATE_SUCCEEDED:
                return None
            if run.state not in (run_pb2.RUN_STATE_FAILED, run_pb2.RUN_STATE_CANCELLED):
                return request
        return None

    # -- transforms, dashboards, the pipeline --------------------------------------------------------------------------
    async def _transform(self, wanted: transform_pb2.Transform) -> None:
        outcome = _compared(await _or_none(get_transform(self.session, wanted.name)), wanted)
        if outcome is not Outcome.UNCHANGED and not self.dry_run:
            put = transform_pb2.PutTransformRequest(request_id=new_request_id(), transform=wanted)
            await self._put("transform", self.session.transform.PutTransform, put, transform_pb2.PutTransformResponse)
        self.tell(Applied("transform", short_name(wanted.name), outcome))

    async def _dashboard(self, wanted: viz_pb2.Dashboard) -> None:
        outcome = _compared(await _or_none(get_dashboard(self.session, wanted.name)), wanted)
        if outcome is not Outcome.UNCHANGED and not self.dry_run:
            put = viz_pb2.PutDashboardRequest(request_id=new_request_id(), dashboard=wanted)
            await self._put("viz", self.session.viz.PutDashboard, put, viz_pb2.PutDashboardResponse)
        self.tell(Applied("dashboard", short_name(wanted.name), outcome))

    async def _pipeline(self, pipeline: Pipeline) -> None:
        name = pipeline.full("pipelines", pipeline.name)
        spec = pipeline.spec()
        found = await _or_none(get_pipeline(self.session, name))
        outcome = Outcome.CREATED if found is None else Outcome.UNCHANGED if found.spec == spec else Outcome.CHANGED
        if outcome is not Outcome.UNCHANGED and not self.dry_run:
            await Resources(self.session.connection("storage")).put(name, spec, overwrite=True)
        self.tell(Applied("pipeline", pipeline.name, outcome))

    async def _put(self, area: str, method: Callable[..., Any], request: Any, answer: type[Any]) -> Any:
        subject = next(getattr(request, one) for one in _SUBJECTS if one in request.DESCRIPTOR.fields_by_name)
        return await self.session.call(area, method, request, answer, resource=subject.name)


_SUBJECTS = ("table", "source", "transform", "dashboard")


@contextmanager
def _named(part: str) -> Iterator[None]:
    """Says which part a refusal is about, where it does not say so itself."""
    try:
        yield
    except MillraceError as error:
        if part not in error.message:
            error.message = f"{part}: {error.message}"
        raise


async def _or_none(reading: Awaitable[Any]) -> Any:
    try:
        return await reading
    except Missing:
        return None


def _compared(found: Any, wanted: Any) -> Outcome:
    if found is None:
        return Outcome.CREATED
    return Outcome.UNCHANGED if _spelled_out(found.spec) == _spelled_out(wanted.spec) else Outcome.CHANGED


def _spelled_out(spec: Any) -> Any:
    """A spec with the defaults that the contracts name: a service may store them written out."""
    if "on_bad_row" not in spec.DESCRIPTOR.fields_by_name or spec.on_bad_row:
        return spec
    whole = type(spec)()
    whole.CopyFrom(spec)
    whole.on_bad_row = types_pb2.ON_BAD_ROW_DEAD_LETTER
    return whole


def _soft(table: storage_pb2.Table) -> tuple[object, ...]:
    """What an existing table may be given anew."""
    rules = sorted(rule.SerializeToString(deterministic=True) for rule in table.rules)
    return table.description, table.event_time_column, rules


def _retention(found: storage_pb2.Table, wanted: storage_pb2.Table) -> maintenance_pb2.Retention | None:
    """A file that says nothing about it leaves it as it is."""
    given = wanted if wanted.HasField("retention") else found
    return given.retention if given.HasField("retention") else None


def _evolved(name: str, found: storage_pb2.Table, wanted: storage_pb2.Table) -> types_pb2.Schema:
    """The table's columns as the file wants them: some more, wider, or NULL allowed. Columns that the file does not know stay.

    Raises Failed where the file wants another key, or columns that a table cannot change to."""
    was, wish = _columns(found), _columns(wanted)
    new = [column for column in wish if column not in was]
    gone = [column for column in was if column not in wish]
    wrong = [column for column, (kind, nullable) in wish.items() if not _grows(was.get(column), kind, nullable)]
    wrong += [column for column in gone if new or not was[column][1]]  # a name for another one: that would be renaming
    if not wrong and list(found.primary_key) == list(wanted.primary_key):
        columns = {field.name: field for field in found.schema.fields}
        for field in wanted.schema.fields:
            mine = columns.get(field.name)
            if mine is None:
                columns[field.name] = field
            elif was[field.name] != wish[field.name]:
                mine.type.CopyFrom(field.type)
                mine.nullable = field.nullable
        return types_pb2.Schema(fields=columns.values(), schema_id=found.schema.schema_id)
    what = f"columns {_listed(wrong)}" if wrong else "the primary key"
    raise Failed(
        f"table `{name}` exists, and the file says otherwise about {what}",
        reason="SCHEMA_MISMATCH",
        hint="a table takes new columns (nullable), wider types and NULL where there was none; else mend the file"
        f" (`millrace get table {name} -o yaml`), or declare a table of another name",
    )


def _grows(was: tuple[pa.DataType, bool] | None, kind: pa.DataType, nullable: bool) -> bool:
    if was is None:
        return nullable
    return widens(was[0], kind) and (nullable or not was[1])


def _columns(table: storage_pb2.Table) -> dict[str, tuple[pa.DataType, bool]]:
    return {field.name: (_instant(field.type), field.nullable) for field in schema_from_proto(table.schema)}


def _instant(kind: pa.DataType) -> pa.DataType:
    """A zone is how people read an instant: storage keeps UTC."""
    return pa.timestamp("us", "UTC") if pa.types.is_timestamp(kind) and kind.tz else kind


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
