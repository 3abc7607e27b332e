"""The outermost layer: the span, the metrics, the log line and the memory of recent errors of every call."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import deque
from dataclasses import dataclass

import grpc
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from millrace.server import names
from millrace.server.interceptors.call import Call, Proceed
from millrace.server.telemetry import PROPAGATOR, Telemetry

REMEMBERED = 20
QUIET_SERVICES = frozenset({"grpc.health.v1.Health"})
"""Asked every few seconds by probes: no span, no log line."""

_CLIENTS_FAULT = frozenset({"INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE",
                            "PERMISSION_DENIED", "UNAUTHENTICATED", "CANCELLED"})  # fmt: skip
"""Codes that say nothing about the server's health: the span stays unset, as the semantic conventions have it for servers."""

_log = logging.getLogger("millrace.rpc")


@dataclass(frozen=True, slots=True)
class RecentError:
    """One error as a caller got it. `at`: seconds since 1970."""

    at: float
    method: str
    code: str
    reason: str
    message: str
    trace_id: str


class Observe:
    """A layer. `recent`: the last errors, newest first."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self.recent: deque[RecentError] = deque(maxlen=REMEMBERED)

    async def __call__(self, call: Call, proceed: Proceed) -> bytes | None:
        if call.method.service in QUIET_SERVICES:
            return await proceed(call)
        context = PROPAGATOR.extract(dict(call.metadata))
        name = call.method.full_name.strip("/")
        with self._telemetry.tracer.start_as_current_span(
            name, context, SpanKind.SERVER, record_exception=False, set_status_on_exception=False
        ) as span:
            call.trace_id = trace.format_trace_id(span.get_span_context().trace_id)
            attributes = {names.RPC_SYSTEM: "grpc", names.RPC_METHOD: name}
            if call.is_stream:
                self._telemetry.instruments.stream_active.add(1, attributes)
            try:
                return await proceed(call)
            except asyncio.CancelledError:
                _note_cancellation(call)
                raise
            finally:
                self._finish(call, span, attributes)

    def _finish(self, call: Call, span: trace.Span, attributes: dict[str, str]) -> None:
        outcome, tally, measures = call.outcome, call.tally, self._telemetry.instruments
        code = outcome.code.name
        span.set_attributes(attributes)
        span.set_attribute(names.RPC_STATUS, code)
        span.set_attribute(names.PRINCIPAL, call.principal)
        if code != "OK":
            span.set_attribute(names.ERROR_TYPE, outcome.reason or code)
            if code not in _CLIENTS_FAULT:
                span.set_status(StatusCode.ERROR, outcome.message)
            self._remember(call)
        labels = {**attributes, names.RPC_STATUS: code}
        measures.server_duration.record(time.monotonic() - call.started_at, labels)
        if call.is_stream:
            span.set_attribute(names.ROWS, tally.rows_in + tally.rows_out)
            span.set_attribute(names.BYTES, tally.bytes_in + tally.bytes_out)
            span.set_attribute(names.MESSAGES, tally.messages_in + tally.messages_out)
            span.set_attribute(names.END_REASON, outcome.end_reason)
            if place := resumed_from(call.request):
                span.set_attribute(names.RESUMED_FROM, place)
                measures.stream_resumes.add(1, attributes)
            measures.stream_active.add(-1, attributes)
            measures.stream_end.add(1, {**attributes, names.END_REASON: outcome.end_reason})
            if tally.first_message_at:
                measures.stream_first_message.record(tally.first_message_at - call.started_at, attributes)
        _write_log(call)

    def _remember(self, call: Call) -> None:
        outcome = call.outcome
        if outcome.end_reason in ("client_gone", "aged_out", "draining"):
            return
        self.recent.appendleft(
            RecentError(
                time.time(), call.method.full_name, outcome.code.name, outcome.reason, outcome.message, call.trace_id
            )
        )


def resumed_from(request: object) -> str:
    """Where a stream goes on, as its request says: a number, or a resume token's fingerprint; empty for one from the start."""
    fields = getattr(getattr(request, "DESCRIPTOR", None), "fields_by_name", {})
    for name in ("after_version", "after_revision", "after_sequence"):
        if name in fields and (place := getattr(request, name)):
            return str(place)
    token = getattr(request, "resume_token", b"") if "resume_token" in fields else b""
    return f"token {hashlib.sha256(token).hexdigest()[:8]}" if token else ""


def _note_cancellation(call: Call) -> None:
    """The client cancelled or vanished, its deadline passed, or the server's grace was over."""
    outcome = call.outcome
    if outcome.reason:
        return  # it had failed before that
    left = call.context.time_remaining()
    outcome.code = grpc.StatusCode.CANCELLED if left is None or left > 0 else grpc.StatusCode.DEADLINE_EXCEEDED
    outcome.end_reason = "client_gone"


def _write_log(call: Call) -> None:
    outcome, tally = call.outcome, call.tally
    about = {"method": call.method.full_name.strip("/"), "code": outcome.code.name}
    if outcome.reason:
        about["reason"] = outcome.reason
    if call.is_stream:
        about |= {"end_reason": outcome.end_reason, "rows": str(tally.rows_in + tally.rows_out)}
    about["duration_ms"] = f"{(time.monotonic() - call.started_at) * 1000:.1f}"
    about["principal"] = call.principal
    failed = outcome.code.name not in _CLIENTS_FAULT and outcome.code is not grpc.StatusCode.OK
    level = logging.WARNING if failed else logging.DEBUG
    _log.log(level, outcome.message or "done", extra={"call": about})
