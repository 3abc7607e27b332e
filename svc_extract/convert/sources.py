"""Sources between proto and domain. A connector's own message stays as it is: only the connector looks into it."""

from __future__ import annotations

from google.protobuf import duration_pb2

from millrace.errors import FieldRequired
from millrace.extract.v1 import extract_pb2 as pb
from millrace.types.v1 import run_pb2, types_pb2
from millrace.wire.clock import duration_proto
from millrace.wire.schema import schema_to_proto
from svc_extract.convert.positions import duration_ms, position_from, position_to, time_from, time_to
from svc_extract.ports import (
    CheckReport,
    ConnectorInfo,
    Finding,
    Guarantee,
    OnBadRow,
    Progress,
    Source,
    SourceSpec,
    SourceStatus,
    WorkState,
)

_GUARANTEES = {one: pb.Guarantee.Value(f"GUARANTEE_{one}") for one in Guarantee}
_STATES = {one: run_pb2.WorkState.Value(f"WORK_STATE_{one}") for one in WorkState}
_STATES_BACK = {number: state for state, number in _STATES.items()}


def spec_from(message: pb.SourceSpec) -> SourceSpec:
    """Raises FieldRequired without a connector."""
    kind = message.WhichOneof("connector")
    if kind is None:
        raise FieldRequired("one connector is needed", field="spec.connector", hint="files, sql, push or replay")
    return SourceSpec(
        table=message.table,
        connector=kind,
        options=getattr(message, kind),
        continuous=message.continuous,
        on_bad_row=on_bad_row_from(message.on_bad_row, OnBadRow.DEAD_LETTER),
        commit_interval_ms=duration_ms(message.commit_interval) if message.HasField("commit_interval") else None,
        description=message.description,
        paused=message.paused,
    )


def on_bad_row_from(number: int, default: OnBadRow) -> OnBadRow:
    if number == types_pb2.ON_BAD_ROW_FAIL:
        return OnBadRow.FAIL
    return OnBadRow.DEAD_LETTER if number == types_pb2.ON_BAD_ROW_DEAD_LETTER else default


def spec_to(spec: SourceSpec) -> pb.SourceSpec:
    message = pb.SourceSpec(
        table=spec.table,
        continuous=spec.continuous,
        on_bad_row=types_pb2.OnBadRow.Value(f"ON_BAD_ROW_{spec.on_bad_row}"),
        description=spec.description,
        paused=spec.paused,
    )
    getattr(message, spec.connector).CopyFrom(spec.options)
    if spec.commit_interval_ms is not None:
        message.commit_interval.CopyFrom(duration_proto(spec.commit_interval_ms * 1000))
    return message


def source_from(message: pb.Source) -> Source:
    """As a client sends it: what is OUTPUT_ONLY does not count."""
    return Source(name=message.name, spec=spec_from(message.spec), etag=message.etag)


def source_to(source: Source) -> pb.Source:
    return pb.Source(
        name=source.name,
        uid=source.uid,
        etag=source.etag,
        spec=spec_to(source.spec),
        status=status_to(source.status),
        owner=source.owner,
    )


def progress_to(progress: Progress) -> run_pb2.RunProgress:
    return run_pb2.RunProgress(
        rows_read=progress.rows_read,
        rows_written=progress.rows_written,
        rows_dead_lettered=progress.rows_dead_lettered,
        bytes=progress.source_bytes,
        position=position_to(progress.position),
        version=progress.version,
        lag=None if progress.lag_us is None else duration_proto(progress.lag_us),
        fraction=progress.fraction,
    )


def progress_from(message: run_pb2.RunProgress) -> Progress:
    lag: duration_pb2.Duration = message.lag
    return Progress(
        rows_read=message.rows_read,
        rows_written=message.rows_written,
        rows_dead_lettered=message.rows_dead_lettered,
        source_bytes=message.bytes,
        position=position_from(message.position) if message.HasField("position") else None,
        version=message.version,
        lag_us=lag.seconds * 1_000_000 + lag.nanos // 1000 if message.HasField("lag") else None,
        fraction=message.fraction,
    )


def status_to(status: SourceStatus) -> pb.SourceStatus:
    return pb.SourceStatus(
        state=_STATES[status.state],
        cause=status.cause,
        progress=progress_to(status.progress),
        rows_per_second=status.rows_per_second,
        commit_time=time_to(status.commit_time_us),
        next_attempt_time=time_to(status.next_attempt_us),
        worker=status.worker,
        epoch=status.epoch,
        observed_generation=status.observed_generation,
        activity=status.activity,
        replay_time=time_to(status.replay_time_us),
    )


def status_from(message: pb.SourceStatus) -> SourceStatus:
    return SourceStatus(
        state=_STATES_BACK.get(message.state, WorkState.IDLE),
        cause=message.cause,
        progress=progress_from(message.progress),
        rows_per_second=message.rows_per_second,
        commit_time_us=time_from(message.commit_time),
        next_attempt_us=time_from(message.next_attempt_time),
        worker=message.worker,
        epoch=message.epoch,
        observed_generation=message.observed_generation,
        activity=message.activity,
        replay_time_us=time_from(message.replay_time),
    )


def connector_to(info: ConnectorInfo) -> pb.Connector:
    return pb.Connector(
        name=info.name,
        description=info.description,
        guarantee=_GUARANTEES[info.guarantee],
        continuous=info.continuous,
        formats=info.formats,
    )


def finding_to(found: Finding) -> pb.CheckFinding:
    return pb.CheckFinding(fatal=found.fatal, reason=found.reason, field=found.field, message=found.message)


def report_to(report: CheckReport) -> pb.CheckSourceResponse:
    return pb.CheckSourceResponse(
        ok=report.ok,
        findings=map(finding_to, report.findings),
        schema=schema_to_proto(report.schema) if report.schema is not None else None,
        guarantee=_GUARANTEES[report.guarantee],
    )
