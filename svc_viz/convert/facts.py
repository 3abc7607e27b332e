"""Resources and tables of storage into what the page says about them."""

from __future__ import annotations

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from millrace.extract.v1 import extract_pb2
from millrace.storage.v1 import resources_pb2, storage_pb2
from millrace.transform.v1 import transform_pb2
from millrace.types.v1 import pipeline_pb2, run_pb2, types_pb2
from svc_viz.ports import PipelineFacts, SourceFacts, TableFacts, TransformFacts

STATES = {
    run_pb2.WORK_STATE_UNSPECIFIED: "unknown",
    run_pb2.WORK_STATE_IDLE: "idle",
    run_pb2.WORK_STATE_RUNNING: "running",
    run_pb2.WORK_STATE_BACKING_OFF: "backing_off",
    run_pb2.WORK_STATE_PAUSED: "paused",
    run_pb2.WORK_STATE_FINISHED: "finished",
}
KINDS = {
    types_pb2.TYPE_KIND_BOOL: "bool",
    types_pb2.TYPE_KIND_INT: "int",
    types_pb2.TYPE_KIND_FLOAT: "float",
    types_pb2.TYPE_KIND_STRING: "string",
    types_pb2.TYPE_KIND_TIMESTAMP: "timestamp",
}


def moment(stamp: Timestamp) -> datetime | None:
    """None for the unset (zero) stamp."""
    return stamp.ToDatetime(UTC) if stamp.seconds or stamp.nanos else None


def table_facts(table: storage_pb2.Table) -> TableFacts:
    return TableFacts(
        version=table.version,
        row_count=table.row_count,
        dead_letters=table.dead_letter_count,
        commit_time=moment(table.commit_time),
        event_time_high=moment(table.event_time_high),
        event_time_column=table.event_time_column,
        columns={field.name: KINDS.get(field.type.kind, "other") for field in table.schema.fields},
    )


def source_facts(resource: resources_pb2.Resource) -> SourceFacts:
    spec, status = extract_pb2.SourceSpec(), extract_pb2.SourceStatus()
    resource.spec.Unpack(spec)
    resource.status.Unpack(status)
    return SourceFacts(
        table=spec.table,
        state="paused" if spec.paused else STATES.get(status.state, "unknown"),
        cause=status.cause,
        activity=status.activity,
        rows_per_second=status.rows_per_second,
        rows_written=status.progress.rows_written,
        commit_time=moment(status.commit_time),
    )


def transform_facts(resource: resources_pb2.Resource) -> TransformFacts:
    spec, status = transform_pb2.TransformSpec(), transform_pb2.TransformStatus()
    resource.spec.Unpack(spec)
    resource.status.Unpack(status)
    return TransformFacts(
        output=spec.output,
        state="paused" if spec.paused else STATES.get(status.state, "unknown"),
        cause=status.cause,
        inputs={one.table: one.version for one in status.inputs},
        rows_per_second=status.rows_per_second,
    )


def pipeline_facts(resource: resources_pb2.Resource) -> PipelineFacts:
    spec = pipeline_pb2.PipelineSpec()
    resource.spec.Unpack(spec)
    return PipelineFacts(
        title=spec.title,
        description=spec.description,
        tables=tuple(spec.tables),
        sources=tuple(spec.sources),
        transforms=tuple(spec.transforms),
        dashboards=tuple(spec.dashboards),
    )
