"""Traces and metrics reach a collector by OTLP when an endpoint is set."""

from __future__ import annotations

import asyncio

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from millrace.admin.v1 import admin_pb2, admin_pb2_grpc
from millrace.server import names
from millrace.server.runtime import Composition, ServiceSpec
from millrace.server.telemetry import start_telemetry
from millrace.server.testing import running


class Collector(trace_service_pb2_grpc.TraceServiceServicer, metrics_service_pb2_grpc.MetricsServiceServicer):
    """Takes both signals on one port; they share the method's name, so each goes by its request."""

    def __init__(self) -> None:
        self.spans: list[str] = []
        self.metrics: set[str] = set()

    async def Export(self, request: object, context: object) -> object:  # type: ignore[override]
        if isinstance(request, trace_service_pb2.ExportTraceServiceRequest):
            self.spans += [s.name for r in request.resource_spans for scope in r.scope_spans for s in scope.spans]
            return trace_service_pb2.ExportTraceServiceResponse()
        assert isinstance(request, metrics_service_pb2.ExportMetricsServiceRequest)
        self.metrics |= {m.name for r in request.resource_metrics for scope in r.scope_metrics for m in scope.metrics}
        return metrics_service_pb2.ExportMetricsServiceResponse()


async def test_signals_are_exported_and_flushed_at_the_end() -> None:
    async def compose(_settings: None, _runtime: object) -> Composition:
        return Composition(servicers=())

    collector, server = Collector(), grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    telemetry = await asyncio.to_thread(start_telemetry, "storage", otlp_endpoint=f"http://127.0.0.1:{port}")
    spec = ServiceSpec(name="storage", settings=lambda _env: None, compose=compose)
    async with running(spec, telemetry=telemetry) as served:
        await admin_pb2_grpc.AdminServiceStub(served.channel()).GetStatus(admin_pb2.GetStatusRequest())
    await telemetry.close()
    assert "millrace.admin.v1.AdminService/GetStatus" in collector.spans
    assert {names.SERVER_DURATION, names.CLIENT_DURATION} <= collector.metrics
    await server.stop(0)
