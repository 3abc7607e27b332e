"""Traces and metrics of one process by the OpenTelemetry SDK. Nothing leaves it unless an OTLP endpoint is set."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Counter, Histogram, Meter, Observation, UpDownCounter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from millrace.server import names

FLUSH_LIMIT_MS = 2000
_READ_TRIES = 3
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
PROPAGATOR = TraceContextTextMapPropagator()
_OTHER = "other"
Reading = tuple[float, Mapping[str, str]]
"""A number and its attributes."""


@dataclass(frozen=True, slots=True)
class TableLabels:
    """The tables that metrics may name (MILLRACE_METRIC_TABLES). All others are one: who creates tables shall not create time series."""

    allowed: frozenset[str] = frozenset()

    def of(self, table: str) -> Mapping[str, str]:
        """`table`: full name or the last part of it; either may be allowed."""
        short = table.rpartition("/")[2]
        found = next((name for name in (table, short) if name in self.allowed), _OTHER)
        return {names.TABLE: found}

    def names(self, table: str) -> bool:
        return self.of(table)[names.TABLE] != _OTHER


@dataclass(frozen=True, slots=True)
class Instruments:
    """What the layers record. Services make their own from `Telemetry.meter` with the names of `names.py`."""

    server_duration: Histogram
    client_duration: Histogram
    stream_active: UpDownCounter
    stream_first_message: Histogram
    stream_end: Counter
    stream_resumes: Counter


class Telemetry:
    """`tracer` and `meter` of the process. `close` flushes, bounded."""

    def __init__(self, tracers: TracerProvider, meters: MeterProvider) -> None:
        self._tracers, self._meters = tracers, meters
        self.tracer: trace.Tracer = tracers.get_tracer("millrace")
        self.meter: Meter = meters.get_meter("millrace")
        self.instruments = _instruments(self.meter)

    def caused(self, what: str, causes: Iterable[str]) -> AbstractContextManager[object]:
        """A span for work in the background, in a trace of its own, linked to the stored traceparents of what caused it."""
        links = [link for cause in causes for link in link_to(cause)]
        return self.tracer.start_as_current_span(
            what, Context(), SpanKind.CONSUMER, links=links, record_exception=False, set_status_on_exception=False
        )

    def seconds(self, name: str, description: str) -> Histogram:
        return _seconds(self.meter, name, description)

    def gauge(self, name: str, unit: str, description: str, read: Callable[[], Iterable[Reading]]) -> None:
        """`read` is called whenever metrics leave the process, on a thread of the exporter."""
        self.meter.create_observable_gauge(name, [_observer(read)], unit, description)

    def total(self, name: str, unit: str, description: str, read: Callable[[], float]) -> None:
        """The same for a number that only grows."""
        self.meter.create_observable_counter(name, [_observer(lambda: [(read(), {})])], unit, description)

    async def close(self) -> None:
        def flush() -> None:
            self._tracers.force_flush(FLUSH_LIMIT_MS)
            self._tracers.shutdown()
            self._meters.shutdown(FLUSH_LIMIT_MS)

        try:
            await asyncio.wait_for(asyncio.to_thread(flush), 2 * FLUSH_LIMIT_MS / 1000)
        except TimeoutError:
            return


def start_telemetry(
    service: str,
    *,
    otlp_endpoint: str = "",
    span_processor: SpanProcessor | None = None,
    metric_reader: MetricReader | None = None,
) -> Telemetry:
    """`span_processor`, `metric_reader`: for tests. Without endpoint and without them spans only carry the logs' trace ids."""
    resource = Resource.create({"service.name": f"millrace-{service}", "service.namespace": "millrace"})
    readers = [metric_reader] if metric_reader else []
    tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
    if span_processor:
        tracers.add_span_processor(span_processor)
    if otlp_endpoint:
        processor, reader = _otlp(otlp_endpoint)
        tracers.add_span_processor(processor)
        readers.append(reader)
    return Telemetry(tracers, MeterProvider(readers, resource=resource, shutdown_on_exit=False))


def _otlp(endpoint: str) -> tuple[SpanProcessor, MetricReader]:
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    insecure = not endpoint.startswith("https://")
    spans = BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, insecure=insecure))
    metrics = PeriodicExportingMetricReader(OTLPMetricExporter(endpoint=endpoint, insecure=insecure))
    return spans, metrics


def _seconds(meter: Meter, name: str, description: str) -> Histogram:
    return meter.create_histogram(name, "s", description, explicit_bucket_boundaries_advisory=_SECONDS)


def _observer(read: Callable[[], Iterable[Reading]]) -> Callable[[CallbackOptions], list[Observation]]:
    def observe(_: CallbackOptions) -> list[Observation]:
        for _attempt in range(_READ_TRIES):
            try:
                return [Observation(value, attributes) for value, attributes in read()]
            except RuntimeError:  # what is read grew meanwhile: the event loop runs on another thread
                continue
        return []

    return observe


def _instruments(meter: Meter) -> Instruments:
    def seconds(name: str, description: str) -> Histogram:
        return _seconds(meter, name, description)

    return Instruments(
        server_duration=seconds(names.SERVER_DURATION, "From a call's arrival to its status."),
        client_duration=seconds(names.CLIENT_DURATION, "From a call's start to its status."),
        stream_active=meter.create_up_down_counter(names.STREAM_ACTIVE, "{stream}", "Open streams."),
        stream_first_message=seconds(names.STREAM_FIRST_MESSAGE, "From a stream's arrival to its first response."),
        stream_end=meter.create_counter(names.STREAM_END, "{stream}", "Ended streams by reason."),
        stream_resumes=meter.create_counter(
            names.STREAM_RESUMES, "{stream}", "Streams that go on where another was cut."
        ),
    )


def trace_id() -> str:
    """The trace this code runs in, 32 hex digits; empty outside of one."""
    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else ""


def traceparent() -> str:
    """The W3C header of the current span, for a commit to carry on; empty outside of one."""
    carrier: dict[str, str] = {}
    PROPAGATOR.inject(carrier)
    return carrier.get(names.TRACEPARENT, "")


def link_to(traceparent_of_cause: str) -> list[trace.Link]:
    """Links for a span whose cause is told by a stored `traceparent`; none when that is empty or not one."""
    return links_of({names.TRACEPARENT: traceparent_of_cause})


def links_of(carrier: Mapping[str, str]) -> list[trace.Link]:
    context = trace.get_current_span(PROPAGATOR.extract(dict(carrier))).get_span_context()
    return [trace.Link(context)] if context.is_valid else []
