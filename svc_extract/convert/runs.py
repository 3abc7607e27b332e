"""Runs and their events between proto and domain."""

from __future__ import annotations

from google.protobuf import timestamp_pb2
from google.rpc import status_pb2

from millrace.errors import from_reason
from millrace.extract.v1 import extract_pb2 as pb
from millrace.server.status import from_status, to_status
from millrace.types.v1 import run_pb2, types_pb2
from svc_extract.convert.positions import position_from, position_to, time_from, time_to
from svc_extract.convert.sources import progress_from, progress_to
from svc_extract.domain.runs import RunWish
from svc_extract.ports import (
    Failure,
    Finished,
    Happening,
    Position,
    Progress,
    Run,
    RunEvent,
    RunMode,
    RunSpec,
    RunState,
    Started,
    Warned,
)

_STATES = {one: run_pb2.RunState.Value(f"RUN_STATE_{one}") for one in RunState}
_STATES_BACK = {number: state for state, number in _STATES.items()}


def wish_from(request: pb.RunSourceRequest, requested_by: str) -> RunWish:
    return RunWish(
        source=request.source,
        request_id=request.request_id,
        mode=RunMode.UNTIL_CAUGHT_UP if request.mode == pb.RUN_MODE_UNTIL_CAUGHT_UP else RunMode.ONCE,
        start_override=_override(request.start_override) if request.HasField("start_override") else None,
        requested_by=requested_by,
    )


def _override(message: types_pb2.Position) -> Position:
    return position_from(message, field="start_override")


# -- stored form -------------------------------------------------------------------------------------------------------
def spec_to(spec: RunSpec) -> run_pb2.RunSpec:
    return run_pb2.RunSpec(
        kind=run_pb2.RUN_KIND_SOURCE,
        subject=spec.source,
        once=spec.mode is RunMode.ONCE,
        start_override=position_to(spec.start_override),
        cancel_requested=spec.cancel_requested,
        requested_by=spec.requested_by,
    )


def spec_from(message: run_pb2.RunSpec) -> RunSpec:
    return RunSpec(
        source=message.subject,
        mode=RunMode.ONCE if message.once else RunMode.UNTIL_CAUGHT_UP,
        start_override=position_from(message.start_override) if message.HasField("start_override") else None,
        cancel_requested=message.cancel_requested,
        requested_by=message.requested_by,
    )


def run_to(run: Run) -> run_pb2.Run:
    """As clients see it; a run of another service as that one stored it, its spec's kind and subject filled in."""
    if isinstance(run.foreign, run_pb2.Run):
        return run.foreign
    return run_pb2.Run(
        name=run.name,
        kind=run_pb2.RUN_KIND_SOURCE,
        subject=run.spec.source,
        state=_STATES[run.state],
        create_time=time_to(run.create_us or None),
        start_time=time_to(run.start_us),
        end_time=time_to(run.end_us),
        progress=progress_to(run.progress),
        error=failure_to(run.error),
        requested_by=run.spec.requested_by,
        last_sequence=run.last_sequence,
    )


def run_from(name: str, spec: run_pb2.RunSpec, status: run_pb2.Run) -> Run:
    foreign = None
    if spec.kind != run_pb2.RUN_KIND_SOURCE:
        foreign = run_pb2.Run()
        foreign.CopyFrom(status)
        foreign.name, foreign.kind, foreign.subject = name, spec.kind, spec.subject
    return Run(
        name=name,
        spec=spec_from(spec),
        state=_STATES_BACK.get(status.state, RunState.PENDING),
        create_us=time_from(status.create_time) or 0,
        start_us=time_from(status.start_time),
        end_us=time_from(status.end_time),
        progress=progress_from(status.progress),
        error=failure_from(status.error) if status.HasField("error") else None,
        foreign=foreign,
    )


def failure_to(failure: Failure | None) -> status_pb2.Status | None:
    if failure is None:
        return None
    return to_status(from_reason(failure.reason, failure.message, field=failure.field, hint=failure.hint))


def failure_from(status: status_pb2.Status) -> Failure:
    error = from_status(status)
    if error is None:
        return Failure("UNEXPECTED", status.message)
    return Failure(error.reason, error.message, error.field, error.hint)


# -- events ------------------------------------------------------------------------------------------------------------
def happening_to(what: Happening) -> run_pb2.RunEvent:
    """An event as it is stored: without sequence and time, which storage gives."""
    if isinstance(what, Started):
        return run_pb2.RunEvent(started=run_pb2.RunStarted(worker=what.worker, position=position_to(what.position)))
    if isinstance(what, Progress):
        return run_pb2.RunEvent(progress=progress_to(what))
    if isinstance(what, Warned):
        return run_pb2.RunEvent(warning=run_pb2.RunWarning(reason=what.reason, message=what.message))
    return run_pb2.RunEvent(
        finished=run_pb2.RunFinished(
            state=_STATES[what.state], progress=progress_to(what.progress), error=failure_to(what.error)
        )
    )


def happening_from(message: run_pb2.RunEvent) -> Happening | None:
    """None for what sources' runs do not have."""
    match message.WhichOneof("event"):
        case "started":
            started = message.started
            position = position_from(started.position) if started.HasField("position") else None
            return Started(started.worker, position)
        case "progress":
            return progress_from(message.progress)
        case "warning":
            return Warned(message.warning.reason, message.warning.message)
        case "finished":
            done = message.finished
            error = failure_from(done.error) if done.HasField("error") else None
            return Finished(_STATES_BACK[done.state], progress_from(done.progress), error)
    return None


def response(event: RunEvent, run: Run | None) -> pb.RunSourceResponse:
    """`run`: along with the first event of a stream and the last."""
    message = happening_to(event.what)
    message.sequence = event.sequence
    message.time.CopyFrom(time_to(event.time_us) or timestamp_pb2.Timestamp())
    if run is not None:
        message.run.CopyFrom(run_to(run))
    return pb.RunSourceResponse(event=message)


def heartbeat(now_us: int) -> pb.RunSourceResponse:
    beat = types_pb2.Heartbeat(time=time_to(now_us))
    return pb.RunSourceResponse(event=run_pb2.RunEvent(time=time_to(now_us), heartbeat=beat))
