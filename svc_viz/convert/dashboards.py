"""Dashboard messages ↔ dashboards as the domain has them."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from millrace.errors import FieldInvalid
from millrace.viz.v1 import dashboard_pb2 as pb
from millrace.viz.v1 import viz_pb2
from svc_viz.ports import (
    AnnotationSpec,
    Dashboard,
    DashboardSpec,
    ElementSpec,
    FieldSpec,
    ForecastSpec,
    LiveSpec,
    ParamSpec,
    QuerySpec,
    RowSpec,
    SelectSpec,
    Threshold,
    TimeSpec,
)


def spec_from(message: pb.DashboardSpec) -> DashboardSpec:
    """Unset fields become the contract's defaults."""
    time, live = message.time, message.live
    return DashboardSpec(
        title=message.title,
        description=message.description,
        time=TimeSpec(time.table, time.column, time.zone or "UTC", time.range or "all", time.as_of or "live"),
        live=LiveSpec(live.max_rate_hz or 2.0, live.pause_when_hidden if message.HasField("live") else True),
        params={
            name: ParamSpec(one.type, one.column, one.multiple, tuple(one.options))
            for name, one in message.params.items()
        },
        selections={name: one.mode for name, one in message.selections.items()},
        queries={name: _query(one) for name, one in message.queries.items()},
        fields={name: _field(one) for name, one in message.fields.items()},
        elements={name: _element(one) for name, one in message.elements.items()},
        annotations=tuple(AnnotationSpec(one.from_table, one.time, one.end, one.label) for one in message.annotations),
        columns=message.layout.columns or 12,
        rows=tuple(RowSpec(row.h, tuple(row.cells)) for row in message.layout.rows),
    )


def _query(one: pb.ChartQuery) -> QuerySpec:
    return QuerySpec(
        table=one.from_table,
        bucket=one.bucket,
        by=tuple(one.by),
        bins=dict(one.bin),
        clamp=tuple(one.clamp),
        measures=dict(one.measures),
        fill=one.fill,
        where=one.where,
        order=one.order,
        limit=one.limit,
        range=one.range,
        unfiltered=one.unfiltered,
    )


def _field(one: pb.FieldFormat) -> FieldSpec:
    thresholds = tuple(
        sorted((Threshold(level.at, level.state) for level in one.thresholds), key=lambda level: level.at)
    )
    return FieldSpec(one.label, one.unit, one.format, one.good, thresholds, dict(one.colors), dict(one.labels))


def _element(one: pb.Element) -> ElementSpec:
    select, forecast = one.select, one.forecast
    return ElementSpec(
        kind=one.kind,
        title=one.title,
        subtitle=one.subtitle,
        query=one.query,
        x=one.x,
        y=one.y,
        stack=one.stack,
        value=one.value,
        compare=tuple(one.compare),
        sparkline=one.sparkline,
        columns=tuple(one.columns),
        select=SelectSpec(select.interval, select.point, select.column, select.as_selection)
        if one.HasField("select")
        else None,
        forecast=ForecastSpec(forecast.horizon, forecast.level or 0.8, forecast.season_length)
        if one.HasField("forecast")
        else None,
        facet=one.facet,
        table=one.table,
    )


def dashboard_from(message: viz_pb2.Dashboard) -> Dashboard:
    """Raises FieldInvalid where the name is not a dashboard's."""
    name = dashboard_name(message.name, "dashboard.name")
    return Dashboard(
        name, spec_from(message.spec), etag=message.etag, source=message.spec.SerializeToString(deterministic=True)
    )


def dashboard_name(name: str, field: str) -> str:
    """A checked `namespaces/{namespace}/dashboards/{dashboard}`."""
    parts = name.split("/")
    if len(parts) != 4 or parts[0] != "namespaces" or parts[2] != "dashboards" or not parts[1] or not parts[3]:
        raise FieldInvalid(f"`{name}` is not namespaces/{{namespace}}/dashboards/{{dashboard}}", field=field)
    return name


def namespace_of(parent: str) -> str:
    """The namespace of `namespaces/{namespace}`; empty means default."""
    parts = (parent or "namespaces/default").split("/")
    if len(parts) != 2 or parts[0] != "namespaces" or not parts[1]:
        raise FieldInvalid(f"`{parent}` is not namespaces/{{namespace}}", field="parent")
    return parts[1]


def dashboard_to(one: Dashboard) -> viz_pb2.Dashboard:
    """With the spec as it was put, defaults left out where they were."""
    spec = pb.DashboardSpec.FromString(one.source) if one.source else spec_to(one.spec)
    message = viz_pb2.Dashboard(name=one.name, uid=one.uid, etag=one.etag, owner=one.owner, spec=spec)
    if one.update_time is not None:
        message.update_time.CopyFrom(_stamp(one))
    return message


def _stamp(one: Dashboard) -> Timestamp:
    stamp = Timestamp()
    assert one.update_time is not None
    stamp.FromDatetime(one.update_time)
    return stamp


def spec_to(one: DashboardSpec) -> pb.DashboardSpec:
    return pb.DashboardSpec(
        title=one.title,
        description=one.description,
        time=pb.DashboardTime(
            table=one.time.table, column=one.time.column, zone=one.time.zone, range=one.time.range, as_of=one.time.as_of
        ),
        live=pb.LiveOptions(max_rate_hz=one.live.max_rate_hz, pause_when_hidden=one.live.pause_when_hidden),
        params={
            name: pb.Param(type=param.type, column=param.column, multiple=param.multiple, options=param.options)
            for name, param in one.params.items()
        },
        selections={name: pb.Selection(mode=mode) for name, mode in one.selections.items()},
        queries={name: _query_to(query) for name, query in one.queries.items()},
        fields={name: _field_to(field) for name, field in one.fields.items()},
        elements={name: _element_to(element) for name, element in one.elements.items()},
        annotations=[
            pb.Annotation(from_table=note.table, time=note.time, end=note.end, label=note.label)
            for note in one.annotations
        ],
        layout=pb.Layout(columns=one.columns, rows=[pb.LayoutRow(h=row.h, cells=row.cells) for row in one.rows]),
    )


def _query_to(one: QuerySpec) -> pb.ChartQuery:
    return pb.ChartQuery(
        from_table=one.table,
        bucket=one.bucket,
        by=one.by,
        bin=one.bins,
        clamp=one.clamp,
        measures=one.measures,
        fill=one.fill,
        where=one.where,
        order=one.order,
        limit=one.limit,
        range=one.range,
        unfiltered=one.unfiltered,
    )


def _field_to(one: FieldSpec) -> pb.FieldFormat:
    return pb.FieldFormat(
        label=one.label,
        unit=one.unit,
        format=one.format,
        good=one.good,
        thresholds=[pb.Threshold(at=level.at, state=level.state) for level in one.thresholds],
        colors=one.colors,
        labels=one.labels,
    )


def _element_to(one: ElementSpec) -> pb.Element:
    message = pb.Element(
        kind=one.kind,
        title=one.title,
        subtitle=one.subtitle,
        query=one.query,
        x=one.x,
        y=one.y,
        stack=one.stack,
        value=one.value,
        compare=one.compare,
        sparkline=one.sparkline,
        columns=one.columns,
        facet=one.facet,
        table=one.table,
    )
    if one.select:
        message.select.CopyFrom(
            pb.ElementSelect(
                interval=one.select.interval,
                point=one.select.point,
                column=one.select.column,
                as_selection=one.select.selection,
            )
        )
    if one.forecast:
        message.forecast.CopyFrom(
            pb.ForecastBand(
                horizon=one.forecast.horizon, level=one.forecast.level, season_length=one.forecast.season_length
            )
        )
    return message
