"""VizService over a real channel: dashboards come back as they were put, mistakes are named, charts are whole files."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import uuid
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from millrace.viz.v1 import dashboard_pb2, viz_pb2
from svc_viz.convert.dashboards import spec_to
from tests.unit.viz.conftest import DASHBOARD, SPEC

NAME = "namespaces/default/dashboards/"


def put(stub: Any, name: str, spec: dashboard_pb2.DashboardSpec | None = None, **fields: str) -> viz_pb2.Dashboard:
    dashboard = viz_pb2.Dashboard(name=NAME + name, spec=spec or spec_to(SPEC), etag=fields.get("etag", ""))
    request_id = fields.get("request_id", uuid.uuid4().hex)
    return stub.PutDashboard(viz_pb2.PutDashboardRequest(request_id=request_id, dashboard=dashboard)).dashboard


def refused(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str, dict[str, str]]:
    """Code, reason and violations by field."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    status = rpc_status.from_call(caught.value)
    reason, fields = "", {}
    for detail in status.details if status else ():
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(bad):
            fields = {one.field: one.description for one in bad.field_violations}
    return caught.value.code(), reason, fields  # type: ignore[attr-defined]


def test_a_dashboard_comes_back_as_it_was_put(grpc_stub: Any) -> None:
    spec = dashboard_pb2.DashboardSpec(title="Bare")
    stored = put(grpc_stub, "bare", spec)
    found = grpc_stub.GetDashboard(viz_pb2.GetDashboardRequest(name=NAME + "bare")).dashboard
    assert found == stored
    assert found.spec == spec, "defaults that were left out stay out"
    assert found.owner == "local"
    assert put(grpc_stub, "bare", spec, etag=found.etag).etag == found.etag
    assert put(grpc_stub, "whole").spec == spec_to(SPEC)


def test_put_may_be_repeated_and_checks_the_etag(grpc_stub: Any) -> None:
    first = put(grpc_stub, "twice", request_id="r1")
    assert put(grpc_stub, "twice", request_id="r1") == first
    assert refused(lambda: put(grpc_stub, "other", request_id="r1"))[:2] == (
        grpc.StatusCode.ALREADY_EXISTS,
        "REQUEST_ID_REUSED",
    )
    assert refused(lambda: put(grpc_stub, "twice", etag="stale"))[:2] == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")


def test_every_mistake_of_a_spec_is_named(grpc_stub: Any) -> None:
    spec = spec_to(SPEC)
    spec.queries["total"].measures["n"] = "cuont"
    spec.elements["hist"].query = "dely"
    code, reason, fields = refused(lambda: put(grpc_stub, "wrong", spec))
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")
    assert "`delay`" in fields["dashboard.spec.elements.hist.query"]
    assert "dashboard.spec.queries.total.measures.n" in fields


@pytest.mark.parametrize("name", ["x", "namespaces/a/tables/b", "namespaces//dashboards/x", "namespaces/a/dashboards/"])
def test_names_are_checked(grpc_stub: Any, name: str) -> None:
    assert refused(lambda: grpc_stub.GetDashboard(viz_pb2.GetDashboardRequest(name=name)))[1] == "FIELD_INVALID"


def test_required_fields_and_missing_dashboards(grpc_stub: Any) -> None:
    assert refused(lambda: grpc_stub.GetDashboard(viz_pb2.GetDashboardRequest()))[1] == "FIELD_REQUIRED"
    assert refused(lambda: grpc_stub.PutDashboard(viz_pb2.PutDashboardRequest()))[1] == "FIELD_REQUIRED"
    gone = viz_pb2.GetDashboardRequest(name=NAME + "gone")
    assert refused(lambda: grpc_stub.GetDashboard(gone))[:2] == (grpc.StatusCode.NOT_FOUND, "DASHBOARD_NOT_FOUND")


def test_lists_page_by_page_and_deletes(grpc_stub: Any) -> None:
    for name in ("page_a", "page_b", "page_c"):
        put(grpc_stub, name)
    names, token = [], ""
    while True:
        page = grpc_stub.ListDashboards(viz_pb2.ListDashboardsRequest(page_size=2, page_token=token))
        names += [one.name for one in page.dashboards]
        if not (token := page.next_page_token):
            break
    assert names == sorted(names)
    assert NAME + "page_b" in names
    grpc_stub.DeleteDashboard(viz_pb2.DeleteDashboardRequest(request_id=uuid.uuid4().hex, name=NAME + "page_b"))
    assert (
        refused(lambda: grpc_stub.GetDashboard(viz_pb2.GetDashboardRequest(name=NAME + "page_b")))[1]
        == "DASHBOARD_NOT_FOUND"
    )
    assert (
        refused(lambda: grpc_stub.ListDashboards(viz_pb2.ListDashboardsRequest(parent="default")))[1] == "FIELD_INVALID"
    )


def rendered(stub: Any, element: str, format: int, **fields: str) -> tuple[viz_pb2.RenderHeader, bytes]:
    request = viz_pb2.RenderChartRequest(dashboard=DASHBOARD.name, element=element, format=format, **fields)  # type: ignore[arg-type]
    messages = list(stub.RenderChart(request))
    header, end, data = messages[0].header, messages[-1].end, b""
    for message in messages[1:-1]:
        assert message.chunk.offset == len(data)
        assert len(message.chunk.data) <= 256 * 1024
        data += message.chunk.data
    assert header.size == end.size == len(data)
    assert end.sha256 == hashlib.sha256(data).hexdigest()
    return header, data


def test_a_chart_as_csv_in_a_state(grpc_stub: Any) -> None:
    header, data = rendered(grpc_stub, "hist", viz_pb2.RENDER_FORMAT_CSV, state="origin=EWR")
    rows = list(csv.reader(io.StringIO(data.decode())))
    assert rows[0] == ["delay", "n"]
    assert sum(int(n) for _, n in rows[1:] if n) == 3
    assert header.filename == "flights-hist.csv"
    assert dict(header.versions) == {"namespaces/default/tables/flights": 1}


def test_a_chart_as_a_page_that_stands_alone(grpc_stub: Any) -> None:
    header, data = rendered(grpc_stub, "ts", viz_pb2.RENDER_FORMAT_HTML, theme="dark")
    page = data.decode()
    assert header.content_type.startswith("text/html")
    assert "<script src" not in page
    assert "<link" not in page
    assert rendered(grpc_stub, "kpi", viz_pb2.RENDER_FORMAT_HTML)[1].startswith(b"<!doctype html>")


def test_a_chart_as_json_for_embedding(grpc_stub: Any) -> None:
    document = json.loads(rendered(grpc_stub, "hour", viz_pb2.RENDER_FORMAT_JSON, state="hour=8..9")[1])
    assert {"doc", "root_id"} <= document.keys()


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"element": "hsit", "format": 3}, "element"),
        ({"element": "hist", "format": 9}, "format"),
        ({"element": "hist", "format": 3, "theme": "pink"}, "theme"),
        ({"element": "hist", "format": 3, "state": "zone=Mars"}, "state"),
        ({"element": "kpi", "format": 2}, "format"),
    ],
)
def test_what_cannot_be_rendered_is_named(grpc_stub: Any, fields: dict[str, Any], field: str) -> None:
    request = viz_pb2.RenderChartRequest(dashboard=DASHBOARD.name, **fields)
    code, reason, named = refused(lambda: list(grpc_stub.RenderChart(request)))
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")
    assert field in named


def test_nobody_without_a_token(grpc_create_channel: Callable[..., grpc.Channel], grpc_stub_cls: Any) -> None:
    stub = grpc_stub_cls(grpc_create_channel(token="wrong"))
    assert refused(lambda: stub.ListDashboards(viz_pb2.ListDashboardsRequest()))[0] == grpc.StatusCode.UNAUTHENTICATED
