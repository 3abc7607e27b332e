"""The kinds of things that `get` and `delete` know: how each is listed, read, deleted, shown, and written as YAML."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click
from google.protobuf.timestamp_pb2 import Timestamp

from millrace.cli.failures import nearest_hint
from millrace.cli.grid import Cell, Row, age, count, instant, size
from millrace.cli.session import Session
from millrace.client.resources import Resources, new_request_id
from millrace.extract.v1 import extract_pb2
from millrace.storage.v1 import resources_pb2, storage_pb2
from millrace.transform.v1 import transform_pb2
from millrace.types.v1 import pipeline_pb2, run_pb2
from millrace.viz.v1 import viz_pb2

PAGE = 1000


@dataclass(frozen=True, slots=True)
class Kind:
    """One collection. `get` raises the NOT_FOUND reason of its own; `delete` is None for what only time removes."""

    collection: str
    singular: str
    heads: Sequence[str]
    row: Callable[[Any], Row]
    listed: Callable[[Session], Awaitable[Sequence[Any]]]
    get: Callable[[Session, str], Awaitable[Any]]
    delete: Callable[[Session, str], Awaitable[None]] | None = None

    def short(self, thing: Any) -> str:
        return short_name(thing.name)


def short_name(name: str) -> str:
    """The last part of a full name."""
    return name.rsplit("/", 1)[-1]


# -- tables ------------------------------------------------------------------------------------------------------------
async def _tables(session: Session) -> Sequence[storage_pb2.Table]:
    async def fetch(token: str) -> Any:
        request = storage_pb2.ListTablesRequest(parent=session.settings.parent, page_size=PAGE, page_token=token)
        return await session.call("storage", session.tables.ListTables, request, storage_pb2.ListTablesResponse)

    return await session.pages(fetch, "tables")


async def get_table(session: Session, name: str) -> storage_pb2.Table:
    """By full name. Raises TableNotFound."""
    request = storage_pb2.GetTableRequest(name=name)
    answer = await session.call(
        "storage", session.tables.GetTable, request, storage_pb2.GetTableResponse, resource=name
    )
    return answer.table


async def _delete_table(session: Session, name: str) -> None:
    request = storage_pb2.DeleteTableRequest(request_id=new_request_id(), name=name)
    await session.call("storage", session.tables.DeleteTable, request, storage_pb2.DeleteTableResponse, resource=name)


def _table_row(table: storage_pb2.Table) -> Row:
    dead = count(table.dead_letter_count)
    return (
        short_name(table.name),
        count(table.version),
        count(table.row_count),
        size(table.size_bytes),
        count(table.file_count),
        Cell(dead, "yellow") if table.dead_letter_count else dead,
        age(table.commit_time),
        instant(table.event_time_high),
    )


# -- sources and transforms --------------------------------------------------------------------------------------------
async def _sources(session: Session) -> Sequence[extract_pb2.Source]:
    async def fetch(token: str) -> Any:
        request = extract_pb2.ListSourcesRequest(parent=session.settings.parent, page_size=PAGE, page_token=token)
        return await session.call("extract", session.extract.ListSources, request, extract_pb2.ListSourcesResponse)

    return await session.pages(fetch, "sources")


async def get_source(session: Session, name: str) -> extract_pb2.Source:
    """By full name. Raises SourceNotFound."""
    request = extract_pb2.GetSourceRequest(name=name)
    answer = await session.call(
        "extract", session.extract.GetSource, request, extract_pb2.GetSourceResponse, resource=name
    )
    return answer.source


async def _delete_source(session: Session, name: str) -> None:
    request = extract_pb2.DeleteSourceRequest(request_id=new_request_id(), name=name)
    await session.call(
        "extract", session.extract.DeleteSource, request, extract_pb2.DeleteSourceResponse, resource=name
    )


async def _transforms(session: Session) -> Sequence[transform_pb2.Transform]:
    async def fetch(token: str) -> Any:
        request = transform_pb2.ListTransformsRequest(parent=session.settings.parent, page_size=PAGE, page_token=token)
        return await session.call(
            "transform", session.transform.ListTransforms, request, transform_pb2.ListTransformsResponse
        )

    return await session.pages(fetch, "transforms")


async def get_transform(session: Session, name: str) -> transform_pb2.Transform:
    """By full name. Raises TransformNotFound."""
    request = transform_pb2.GetTransformRequest(name=name)
    answer = await session.call(
        "transform", session.transform.GetTransform, request, transform_pb2.GetTransformResponse, resource=name
    )
    return answer.transform


async def _delete_transform(session: Session, name: str) -> None:
    request = transform_pb2.DeleteTransformRequest(request_id=new_request_id(), name=name)
    await session.call(
        "transform", session.transform.DeleteTransform, request, transform_pb2.DeleteTransformResponse, resource=name
    )


def state_cell(status: Any) -> Cell:
    """A source's or transform's state in a word."""
    name = run_pb2.WorkState.Name(status.state).removeprefix("WORK_STATE_").lower()
    style = {"running": "green", "paused": "yellow", "backing_off": "red"}.get(name, "")
    return Cell("new" if name == "unspecified" else name, style)


def _source_row(source: extract_pb2.Source) -> Row:
    status = source.status
    kind = (source.spec.WhichOneof("connector") or "") + (" live" if source.spec.continuous else "")
    said = status.cause or status.activity
    return (
        short_name(source.name),
        kind,
        short_name(source.spec.table),
        state_cell(status),
        *_work_cells(status),
        said,
    )


def _transform_row(transform: transform_pb2.Transform) -> Row:
    status = transform.status
    how = "incremental" if status.incrementality.append_safe else status.incrementality.reason.lower()
    return (
        short_name(transform.name), short_name(transform.spec.output), state_cell(status), *_work_cells(status), how, status.cause,
    )  # fmt: skip


def _work_cells(status: Any) -> Row:
    dead = status.progress.rows_dead_lettered
    return (
        count(status.progress.rows_written),
        Cell(count(dead), "yellow") if dead else "0",
        f"{status.rows_per_second:,.0f}/s" if status.rows_per_second else "",
        age(status.commit_time),
    )


# -- dashboards --------------------------------------------------------------------------------------------------------
async def _dashboards(session: Session) -> Sequence[viz_pb2.Dashboard]:
    async def fetch(token: str) -> Any:
        request = viz_pb2.ListDashboardsRequest(parent=session.settings.parent, page_size=PAGE, page_token=token)
        return await session.call("viz", session.viz.ListDashboards, request, viz_pb2.ListDashboardsResponse)

    return await session.pages(fetch, "dashboards")


async def get_dashboard(session: Session, name: str) -> viz_pb2.Dashboard:
    """By full name. Raises DashboardNotFound."""
    request = viz_pb2.GetDashboardRequest(name=name)
    answer = await session.call("viz", session.viz.GetDashboard, request, viz_pb2.GetDashboardResponse, resource=name)
    return answer.dashboard


async def _delete_dashboard(session: Session, name: str) -> None:
    request = viz_pb2.DeleteDashboardRequest(request_id=new_request_id(), name=name)
    await session.call("viz", session.viz.DeleteDashboard, request, viz_pb2.DeleteDashboardResponse, resource=name)


def _dashboard_row(dashboard: viz_pb2.Dashboard) -> Row:
    return (short_name(dashboard.name), dashboard.spec.title, age(dashboard.update_time))


# -- pipelines and runs: resources of storage --------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Pipeline:
    """A stored pipeline: what belongs together."""

    name: str
    spec: pipeline_pb2.PipelineSpec
    update_time: Timestamp


def _stored(session: Session) -> Resources:
    return Resources(session.connection("storage"))


async def _resources(session: Session, collection: str) -> Sequence[resources_pb2.Resource]:
    return [one async for one in _stored(session).list(f"{session.settings.parent}/{collection}")]


async def get_resource(session: Session, name: str) -> resources_pb2.Resource:
    """By full name. Raises the reason of its collection."""
    return await _stored(session).get(name)


async def _delete_resource(session: Session, name: str) -> None:
    await _stored(session).delete(name)


async def _pipelines(session: Session) -> Sequence[Pipeline]:
    return [_pipeline(one) for one in await _resources(session, "pipelines")]


async def get_pipeline(session: Session, name: str) -> Pipeline:
    """By full name. Raises ResourceNotFound."""
    return _pipeline(await get_resource(session, name))


def _pipeline(resource: resources_pb2.Resource) -> Pipeline:
    spec = pipeline_pb2.PipelineSpec()
    resource.spec.Unpack(spec)
    return Pipeline(resource.name, spec, resource.update_time)


def _pipeline_row(pipeline: Pipeline) -> Row:
    spec = pipeline.spec
    parts = (spec.tables, spec.sources, spec.transforms, spec.dashboards)
    return (short_name(pipeline.name), spec.title, *(count(len(part)) for part in parts), age(pipeline.update_time))


async def _runs(session: Session) -> Sequence[run_pb2.Run]:
    found = [_run(resource) for resource in await _resources(session, "runs")]
    return sorted(found, key=lambda run: run.create_time.ToNanoseconds(), reverse=True)


async def _get_run(session: Session, name: str) -> run_pb2.Run:
    return _run(await get_resource(session, name))


def _run(resource: resources_pb2.Resource) -> run_pb2.Run:
    run, spec = run_pb2.Run(), run_pb2.RunSpec()
    resource.status.Unpack(run)
    resource.spec.Unpack(spec)
    run.name = resource.name
    run.kind, run.subject = run.kind or spec.kind, run.subject or spec.subject
    if not run.HasField("create_time"):
        run.create_time.CopyFrom(resource.create_time)
    return run


def _run_row(run: run_pb2.Run) -> Row:
    state = run_pb2.RunState.Name(run.state).removeprefix("RUN_STATE_").lower()
    style = {"failed": "red", "running": "green"}.get(state, "")
    kind = run_pb2.RunKind.Name(run.kind).removeprefix("RUN_KIND_").lower()
    took = run.end_time.ToSeconds() - run.start_time.ToSeconds() if run.HasField("end_time") else 0
    return (
        short_name(run.name), kind, short_name(run.subject), Cell(state, style), count(run.progress.rows_written),
        count(run.progress.rows_dead_lettered), f"{took:,} s" if took else "", age(run.create_time), run.error.message,
    )  # fmt: skip


_WORK = ("WRITTEN", "DEAD", "RATE", "AGE")
KINDS: Mapping[str, Kind] = {
    kind.collection: kind
    for kind in (
        Kind("tables", "table", ("NAME", "VERSION", "ROWS", "SIZE", "FILES", "DEAD", "AGE", "EVENT TIME"), _table_row,
             _tables, get_table, _delete_table),
        Kind("sources", "source", ("NAME", "KIND", "TABLE", "STATE", *_WORK, "SAYS"), _source_row,
             _sources, get_source, _delete_source),
        Kind("transforms", "transform", ("NAME", "OUTPUT", "STATE", *_WORK, "HOW", "SAYS"), _transform_row,
             _transforms, get_transform, _delete_transform),
        Kind("dashboards", "dashboard", ("NAME", "TITLE", "AGE"), _dashboard_row,
             _dashboards, get_dashboard, _delete_dashboard),
        Kind("pipelines", "pipeline", ("NAME", "TITLE", "TABLES", "SOURCES", "TRANSFORMS", "DASHBOARDS", "AGE"), _pipeline_row,
             _pipelines, get_pipeline, _delete_resource),
        Kind("runs", "run", ("NAME", "KIND", "OF", "STATE", "WRITTEN", "DEAD", "TOOK", "AGE", "ERROR"), _run_row,
             _runs, _get_run),
    )
}  # fmt: skip


class KindType(click.ParamType[Kind]):
    """`tables`, `table`, and so on for every kind."""

    name = "kind"

    def __init__(self, *, deletable: bool = False) -> None:
        self._known = [kind for kind in KINDS.values() if kind.delete is not None or not deletable]

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return "{" + "|".join(kind.collection for kind in self._known) + "}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Kind:
        if isinstance(value, Kind):
            return value
        for kind in self._known:
            if value.lower() in (kind.collection, kind.singular):
                return kind
        names = [kind.collection for kind in self._known]
        raise click.UsageError(
            f"there is no kind `{value}`\n{nearest_hint(value, names, otherwise='kinds are ' + ', '.join(names))}", ctx
        )
