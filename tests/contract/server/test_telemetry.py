"""Spans, metrics, log lines and recent errors, for every way a call can end: the thirteen where the contrib instrumentation is wrong."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from millrace.admin.v1 import admin_pb2, admin_pb2_grpc
from millrace.server import logs, names
from millrace.server.telemetry import start_telemetry, trace_id, traceparent
from millrace.server.testing import Served, running
from millrace.storage.v1 import storage_pb2 as pb
from millrace.storage.v1 import storage_pb2_grpc as pb_grpc
from tests.contract.server.test_errors import failure
from tests.contract.server.toy import FINISH, batch, named, opened, toy_spec

PREFIX = "millrace.storage.v1.StorageService/"


class Watched:
    """A served toy whose spans and metrics stay here."""

    def __init__(self, served: Served, spans: InMemorySpanExporter, metrics: InMemoryMetricReader) -> None:
        self.served, self._spans, self._metrics = served, spans, metrics

    @property
    def stub(self) -> Any:
        return pb_grpc.StorageServiceStub(self.served.channel())

    async def span(self, method: str, kind: SpanKind = SpanKind.SERVER) -> ReadableSpan:
        """The one ended span of `method`; waits for it, since a server ends its span after the client has its answer."""
        async with asyncio.timeout(5):
            while True:
                found = [
                    one for one in self._spans.get_finished_spans() if one.name == PREFIX + method and one.kind is kind
                ]
                if found:
                    assert len(found) == 1
                    return found[0]
                await asyncio.sleep(0.01)

    def points(self, name: str) -> list[Any]:
        data = self._metrics.get_metrics_data()
        metrics = [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics] if data else []
        return [point for metric in metrics if metric.name == name for point in metric.data.data_points]


@pytest.fixture
async def watched() -> AsyncIterator[Watched]:
    spans, metrics = InMemorySpanExporter(), InMemoryMetricReader()
    telemetry = start_telemetry("storage", span_processor=SimpleSpanProcessor(spans), metric_reader=metrics)
    async with running(toy_spec(), telemetry=telemetry) as served:
        yield Watched(served, spans, metrics)
    await telemetry.close()


def is_fine(span: ReadableSpan) -> None:
    assert span.status.status_code is StatusCode.UNSET
    assert span.attributes[names.RPC_STATUS] == "OK"
    assert names.ERROR_TYPE not in span.attributes


def is_the_callers(span: ReadableSpan, code: str, reason: str) -> None:
    """A failure, but none of the server's: not an error span."""
    assert span.status.status_code is StatusCode.UNSET
    assert (span.attributes[names.RPC_STATUS], span.attributes[names.ERROR_TYPE]) == (code, reason)


def is_ours(span: ReadableSpan, code: str, reason: str) -> None:
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes[names.RPC_STATUS], span.attributes[names.ERROR_TYPE]) == (code, reason)


async def test_1_a_unary_call(watched: Watched) -> None:
    await watched.stub.GetTable(pb.GetTableRequest(name="t"))
    span = await watched.span("GetTable")
    is_fine(span)
    assert span.attributes[names.RPC_SYSTEM] == "grpc"
    assert span.attributes[names.RPC_METHOD] == PREFIX + "GetTable"
    assert span.attributes[names.PRINCIPAL] == "local"


async def test_2_an_error_of_the_caller(watched: Watched) -> None:
    await failure(watched.stub.GetTable(pb.GetTableRequest(name="missing")))
    is_the_callers(await watched.span("GetTable"), "NOT_FOUND", "TABLE_NOT_FOUND")


async def test_3_an_uncaught_exception(watched: Watched) -> None:
    await failure(watched.stub.GetTable(pb.GetTableRequest(name="bug")))
    span = await watched.span("GetTable")
    is_ours(span, "INTERNAL", "UNEXPECTED")
    assert "4711" not in str(span.to_json())


async def test_4_a_deadline(watched: Watched) -> None:
    await failure(watched.stub.GetTable(pb.GetTableRequest(name="slow"), timeout=0.5))
    is_ours(await watched.span("GetTable"), "DEADLINE_EXCEEDED", "DEADLINE_PASSED")


async def test_5_a_cancelled_unary_call(watched: Watched) -> None:
    call = watched.stub.GetTable(pb.GetTableRequest(name="slow"))
    await asyncio.sleep(0.2)
    call.cancel()
    is_the_callers(await watched.span("GetTable"), "CANCELLED", "CANCELLED")


async def test_6_a_written_stream(watched: Watched) -> None:
    assert len([m async for m in watched.stub.ReadRows(named("t"))]) == 2
    span = await watched.span("ReadRows")
    is_fine(span)
    assert span.attributes[names.ROWS] == 2
    assert span.attributes[names.BYTES] > 0
    assert span.attributes[names.END_REASON] == "end"


async def test_7_a_generated_stream(watched: Watched) -> None:
    assert len([m async for m in watched.stub.WatchTable(pb.WatchTableRequest(table="t"))]) == 1
    is_fine(await watched.span("WatchTable"))


async def test_8_a_stream_that_fails_on_its_way(watched: Watched) -> None:
    call = watched.stub.ReadRows(named("fails"))
    await call.read()
    await failure(call.read())
    span = await watched.span("ReadRows")
    is_the_callers(span, "OUT_OF_RANGE", "VERSION_EXPIRED")
    assert (span.attributes[names.ROWS], span.attributes[names.END_REASON]) == (3, "error")


async def test_9_a_cancelled_stream(watched: Watched) -> None:
    call = watched.stub.ReadRows(named("endless"))
    await call.read()
    call.cancel()
    span = await watched.span("ReadRows")
    is_the_callers(span, "CANCELLED", "CANCELLED")
    assert span.attributes[names.END_REASON] == "client_gone"


async def test_10_a_cancelled_stream_on_the_clients_side(watched: Watched) -> None:
    call = watched.stub.ReadRows(named("endless"))
    await call.read()
    call.cancel()
    client = await watched.span("ReadRows", SpanKind.CLIENT)
    assert client.attributes[names.RPC_STATUS] == "CANCELLED"
    assert client.status.status_code is StatusCode.ERROR


async def test_11_a_bidi_stream(watched: Watched) -> None:
    call = watched.stub.AppendRows()
    for frame in (opened("t"), batch(0, rows=5), FINISH):
        await call.write(frame)
    await call.done_writing()
    assert [m.WhichOneof("message") async for m in call] == ["opened", "committed", "done"]
    span = await watched.span("AppendRows")
    is_fine(span)
    assert span.attributes[names.ROWS] == 5


async def test_12_a_bidi_stream_that_fails_in_band(watched: Watched) -> None:
    call = watched.stub.AppendRows()
    await call.write(opened("fails at open"))
    await call.done_writing()
    assert (await call.read()).HasField("error")
    is_the_callers(await watched.span("AppendRows"), "FAILED_PRECONDITION", "WRITER_FENCED")


async def test_13_a_drained_stream(watched: Watched) -> None:
    call = watched.stub.ReadRows(named("endless"))
    await call.read()
    watched.served.serving.drain()
    span = await watched.span("ReadRows")
    is_the_callers(span, "ABORTED", "STREAM_DRAINING")
    assert span.attributes[names.END_REASON] == "draining"


async def test_a_resumed_stream_says_from_where(watched: Watched) -> None:
    request = named("t")
    request.resume_token = b"place"
    assert len([m async for m in watched.stub.ReadRows(request)]) == 2
    assert (await watched.span("ReadRows")).attributes[names.RESUMED_FROM].startswith("token ")
    (resumes,) = watched.points(names.STREAM_RESUMES)
    assert resumes.value == 1


async def test_client_and_server_are_one_trace(watched: Watched) -> None:
    await watched.stub.GetTable(pb.GetTableRequest(name="t"))
    server, client = await watched.span("GetTable"), await watched.span("GetTable", SpanKind.CLIENT)
    assert server.context.trace_id == client.context.trace_id
    assert server.parent is not None
    assert server.parent.span_id == client.context.span_id


async def test_metrics_follow_the_calls(watched: Watched) -> None:
    call = watched.stub.ReadRows(named("idle"))
    await call.read()
    (active,) = watched.points(names.STREAM_ACTIVE)
    assert active.value == 1
    call.cancel()
    await watched.span("ReadRows")
    (active,) = watched.points(names.STREAM_ACTIVE)
    (ended,) = watched.points(names.STREAM_END)
    (first,) = watched.points(names.STREAM_FIRST_MESSAGE)
    (duration,) = watched.points(names.SERVER_DURATION)
    assert (active.value, ended.value, first.count, duration.count) == (0, 1, 1, 1)
    assert ended.attributes[names.END_REASON] == "client_gone"


async def test_recent_errors_are_in_the_status_without_those_that_are_none(watched: Watched) -> None:
    for name in ("missing", "bug", "t"):
        call = watched.stub.GetTable(pb.GetTableRequest(name=name))
        await (call if name == "t" else failure(call))
    read = watched.stub.ReadRows(named("endless"))
    await read.read()
    read.cancel()
    await watched.span("ReadRows")
    admin = admin_pb2_grpc.AdminServiceStub(watched.served.channel())
    told = (await admin.GetStatus(admin_pb2.GetStatusRequest())).errors
    assert [(one.code, one.reason) for one in told] == [("INTERNAL", "UNEXPECTED"), ("NOT_FOUND", "TABLE_NOT_FOUND")]
    assert all(len(one.trace_id) == 32 for one in told)


@pytest.fixture
def logged() -> Callable[[], list[dict[str, Any]]]:
    stream = io.StringIO()
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    logs.start_logging("storage", "DEBUG", stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers[:] = before
    root.setLevel(level)
    logging.captureWarnings(False)


async def test_a_call_is_one_line_with_its_trace_and_never_with_secrets(watched: Watched, logged: Any) -> None:
    await failure(watched.stub.GetTable(pb.GetTableRequest(name="bug")))
    span = await watched.span("GetTable")
    await asyncio.sleep(0)
    (line,) = [one for one in logged() if one["logger"] == "millrace.rpc"]
    assert line["level"] == "WARNING"
    assert (line["rpc.method"], line["code"], line["reason"]) == (PREFIX + "GetTable", "INTERNAL", "UNEXPECTED")
    assert line["trace_id"] == f"{span.context.trace_id:032x}"
    assert all("local-token" not in json.dumps(one) for one in logged())


def test_background_work_is_linked_to_its_causes_in_a_trace_of_its_own() -> None:
    spans = InMemorySpanExporter()
    telemetry = start_telemetry("transform", span_processor=SimpleSpanProcessor(spans))
    with telemetry.tracer.start_as_current_span("append"):
        cause = traceparent()
        with telemetry.caused("a run", [cause, "", "not one"]):
            assert trace_id() not in cause
    run, append = spans.get_finished_spans()
    assert run.parent is None
    assert [link.context.span_id for link in run.links] == [append.context.span_id]
