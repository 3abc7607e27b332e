"""Sources over gRPC: checked, stored, listed; refusals name the field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest

from millrace.client import status
from millrace.extract.v1 import extract_pb2 as pb
from millrace.types.v1 import types_pb2
from tests.contract.extract.conftest import TABLE


def reason(error: grpc.RpcError) -> tuple[str, str]:
    """Reason and field of what a sync call raised."""
    from google.rpc import error_details_pb2, status_pb2

    metadata = dict(error.trailing_metadata())  # type: ignore[attr-defined]
    found = status_pb2.Status.FromString(metadata["grpc-status-details-bin"])
    rich = status.from_status(found)
    assert rich is not None, error_details_pb2
    return rich.reason, rich.field


def test_connectors_say_what_they_promise(grpc_stub: Any) -> None:
    found = {one.name: one for one in grpc_stub.ListConnectors(pb.ListConnectorsRequest()).connectors}
    assert list(found) == sorted(found) == ["files", "push", "replay"]
    assert found["files"].guarantee == pb.GUARANTEE_REPLAYABLE
    assert found["files"].continuous
    assert not found["push"].continuous


def test_a_check_says_what_would_go_wrong(grpc_stub: Any, folder: Path) -> None:
    (folder / "check.csv").write_text("id,name\n1,a\nx,b\n")
    spec = pb.SourceSpec(table=TABLE, files=pb.FilesConnector(path=str(folder / "check.csv")))
    answer = grpc_stub.CheckSource(pb.CheckSourceRequest(spec=spec))
    assert answer.ok
    assert [one.reason for one in answer.findings] == ["ROW_INVALID"]
    assert [(one.name, one.type.kind) for one in answer.schema.fields] == [
        ("id", types_pb2.TYPE_KIND_STRING),
        ("name", types_pb2.TYPE_KIND_STRING),
    ]
    (folder / "check.csv").write_text("id,name,color\n1,a,red\n")
    answer = grpc_stub.CheckSource(pb.CheckSourceRequest(spec=spec))
    assert not answer.ok
    assert answer.findings[0].reason == "SCHEMA_MISMATCH"
    spec.files.path = "/etc/passwd"
    answer = grpc_stub.CheckSource(pb.CheckSourceRequest(spec=spec))
    assert [(one.fatal, one.reason, one.field) for one in answer.findings] == [(True, "NOT_ALLOWED", "files.path")]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"table": "orders"}, ("FIELD_INVALID", "source.spec.table")),
        ({"table": "namespaces/default/tables/gone"}, ("TABLE_NOT_FOUND", "table")),
        ({"files": pb.FilesConnector(path="/etc/*")}, ("NOT_ALLOWED", "source.spec.files.path")),
        (
            {"replay": pb.ReplayConnector(files=pb.FilesConnector(path="a.csv"), time_column="id", speed=-1)},
            ("FIELD_INVALID", "source.spec.replay.speed"),
        ),
        ({"push": pb.PushConnector(writers=["a b"])}, ("FIELD_INVALID", "source.spec.push.writers")),
        ({"push": pb.PushConnector(), "continuous": True}, ("FIELD_INVALID", "source.spec.continuous")),
    ],
)
def test_a_spec_that_cannot_work_is_refused(
    grpc_stub: Any, folder: Path, change: dict[str, Any], found: tuple[str, str]
) -> None:
    spec = pb.SourceSpec(**{"table": TABLE, **change})
    if spec.WhichOneof("connector") is None:
        spec.files.path = str(folder / "*.csv")
    request = pb.PutSourceRequest(request_id="bad", source=pb.Source(name="namespaces/default/sources/bad", spec=spec))
    with pytest.raises(grpc.RpcError) as refused:
        grpc_stub.PutSource(request)
    assert reason(refused.value) == found


def test_put_is_idempotent_and_guarded_by_its_etag(grpc_stub: Any, csv_source: str) -> None:
    stored = grpc_stub.GetSource(pb.GetSourceRequest(name=csv_source)).source
    assert (stored.owner, stored.spec.on_bad_row) == ("local", types_pb2.ON_BAD_ROW_DEAD_LETTER)
    changed = pb.Source(name=csv_source, spec=stored.spec, etag=stored.etag)
    changed.spec.description = "new"
    request = pb.PutSourceRequest(request_id=f"change {csv_source}", source=changed)
    first, again = grpc_stub.PutSource(request).source, grpc_stub.PutSource(request).source
    assert first == again
    assert (first.uid, first.spec.description) == (stored.uid, "new")
    with pytest.raises(grpc.RpcError) as refused:
        grpc_stub.PutSource(pb.PutSourceRequest(request_id=f"stale {csv_source}", source=changed))
    assert reason(refused.value)[0] == "ETAG_MISMATCH"


def test_lists_by_pages(grpc_stub: Any, csv_source: str) -> None:
    page = grpc_stub.ListSources(pb.ListSourcesRequest(page_size=1))
    names = [one.name for one in page.sources]
    while page.next_page_token:
        page = grpc_stub.ListSources(pb.ListSourcesRequest(page_size=1, page_token=page.next_page_token))
        names += [one.name for one in page.sources]
    assert csv_source in names
    assert names == sorted(names)


@pytest.mark.parametrize("name", ["namespaces/default/sources/gone", "gone", ""])
def test_what_is_not_there_has_a_reason(grpc_stub: Any, name: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        grpc_stub.GetSource(pb.GetSourceRequest(name=name))
    assert reason(refused.value)[0] == {"gone": "FIELD_INVALID", "": "FIELD_REQUIRED"}.get(name, "SOURCE_NOT_FOUND")
