"""QueryResponse messages."""

from __future__ import annotations

import time

from millrace.analysis.v1 import analysis_pb2
from millrace.types.v1 import types_pb2
from millrace.wire.clock import duration_proto, timestamp_proto
from millrace.wire.schema import schema_to_proto
from svc_analysis.domain.answers import Answer


def header(answer: Answer) -> analysis_pb2.QueryResponse:
    found = analysis_pb2.QueryHeader(
        query_id=answer.query_id, schema=schema_to_proto(answer.schema), versions=answer.plan.versions
    )
    return analysis_pb2.QueryResponse(header=found)


def rows(batch: types_pb2.Batch, token: bytes) -> analysis_pb2.QueryResponse:
    return analysis_pb2.QueryResponse(batch=batch, resume_token=token)


def end(answer: Answer) -> analysis_pb2.QueryResponse:
    found = analysis_pb2.QueryEnd(
        row_count=answer.row_count,
        bytes_scanned=answer.plan.size_bytes,
        truncated=answer.truncated,
        elapsed=duration_proto(round(answer.elapsed_s * 1e6)),
    )
    return analysis_pb2.QueryResponse(end=found, resume_token=answer.token(answer.row_count))


def heartbeat() -> analysis_pb2.QueryResponse:
    return analysis_pb2.QueryResponse(heartbeat=beat())


def beat() -> types_pb2.Heartbeat:
    return types_pb2.Heartbeat(time=timestamp_proto(time.time_ns() // 1000))
