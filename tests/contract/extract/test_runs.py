"""Runs over gRPC: events in order with an explicit end; the same request attaches."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from millrace.extract.v1 import extract_pb2 as pb
from millrace.types.v1 import run_pb2
from tests.contract.extract.test_sources import reason


def run(stub: Any, source: str, request_id: str, **rest: Any) -> list[run_pb2.RunEvent]:
    request = pb.RunSourceRequest(source=source, request_id=request_id, **rest)
    return [
        one.event for one in stub.RunSource(request, timeout=20) if one.event.sequence or one.event.HasField("finished")
    ]


def test_a_run_tells_its_story_to_everyone_who_asks(grpc_stub: Any, csv_source: str) -> None:
    events = run(grpc_stub, csv_source, "r-story")
    assert [one.sequence for one in events] == list(range(1, len(events) + 1))
    assert [one.WhichOneof("event") for one in (events[0], events[-1])] == ["started", "finished"]
    done = events[-1].finished
    assert (done.state, done.progress.rows_written, done.progress.rows_dead_lettered) == (
        run_pb2.RUN_STATE_SUCCEEDED,
        3,
        1,
    )
    assert events[-1].run.state == run_pb2.RUN_STATE_SUCCEEDED
    assert run(grpc_stub, csv_source, "r-story") == events
    assert run(grpc_stub, csv_source, "r-story", after_sequence=1) == [
        events[1] if len(events) == 2 else one for one in _with_run(events[1:], events[-1].run)
    ]
    assert run(grpc_stub, csv_source, "r-story", after_sequence=len(events))[-1].finished.state == done.state


def _with_run(events: list[run_pb2.RunEvent], found: run_pb2.Run) -> list[run_pb2.RunEvent]:
    events[0].run.CopyFrom(found)
    return events


def test_another_request_of_that_id_is_refused(grpc_stub: Any, csv_source: str) -> None:
    run(grpc_stub, csv_source, "r-reused")
    with pytest.raises(grpc.RpcError) as refused:
        run(grpc_stub, csv_source, "r-reused", mode=pb.RUN_MODE_UNTIL_CAUGHT_UP)
    assert reason(refused.value)[0] == "REQUEST_ID_REUSED"


def test_a_rehearsal_runs_nothing(grpc_stub: Any, csv_source: str) -> None:
    (only,) = run(grpc_stub, csv_source, "r-dry", validate_only=True)
    assert only.finished.state == run_pb2.RUN_STATE_SUCCEEDED
    with pytest.raises(grpc.RpcError) as refused:
        grpc_stub.GetRun(pb.GetRunRequest(name="namespaces/default/runs/r-dry"))
    assert reason(refused.value)[0] == "RUN_NOT_FOUND"


def test_a_failed_run_is_an_ok_stream(grpc_stub: Any, folder: Any, csv_source: str) -> None:
    path = folder / f"{csv_source.rpartition('/')[2]}.csv"
    path.write_text("id,id\n")
    done = run(grpc_stub, csv_source, "r-failed")[-1].finished
    assert done.state == run_pb2.RUN_STATE_FAILED
    assert "there twice" in done.error.message
    stored = grpc_stub.GetRun(pb.GetRunRequest(name="namespaces/default/runs/r-failed")).run
    assert (stored.state, stored.subject, stored.requested_by) == (run_pb2.RUN_STATE_FAILED, csv_source, "local")
    assert grpc_stub.CancelRun(pb.CancelRunRequest(request_id="c", name=stored.name)).run == stored


@pytest.mark.parametrize(("change", "field"), [({"request_id": "a b"}, "request_id"), ({"source": "x"}, "source")])
def test_a_malformed_request_names_its_field(
    grpc_stub: Any, csv_source: str, change: dict[str, str], field: str
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        run(grpc_stub, **{"source": csv_source, "request_id": "r", **change})
    assert reason(refused.value) == ("FIELD_INVALID", field)
