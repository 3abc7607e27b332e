"""Observes runs: events in sequence order, each once, across breaks. A cut stream never cancels a run."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Any

from millrace import errors
from millrace.client import status
from millrace.client.channel import Connection
from millrace.client.resume import Resumed
from millrace.extract.v1 import extract_pb2, extract_pb2_grpc
from millrace.transform.v1 import transform_pb2, transform_pb2_grpc
from millrace.types.v1 import run_pb2


async def observe(
    open: Callable[[int], Any], *, after_sequence: int = 0, tries: int = 10
) -> AsyncGenerator[run_pb2.RunEvent, None]:
    """Events after `after_sequence` until `finished`, which is the last. Heartbeats (sequence 0) come through: they show that it lives.

    `open`: makes the call (of RunSource or RunTransform), given the sequence of the last event seen. Close it (`aclosing`)."""
    seen = after_sequence
    responses: Resumed[Any] = Resumed(lambda: open(seen), tries=tries)
    try:
        async for response in responses:
            event: run_pb2.RunEvent = response.event
            if event.sequence and event.sequence <= seen:
                continue
            seen = event.sequence or seen
            if event.WhichOneof("event") == "finished":
                responses.finish()
            yield event
    finally:
        await responses.aclose()


def run_source(connection: Connection, request: extract_pb2.RunSourceRequest) -> AsyncGenerator[run_pb2.RunEvent, None]:
    """Runs a source, or attaches to the run of that request id. Raises RequestIdReused, SourceNotFound, SourcePaused."""
    stub = extract_pb2_grpc.ExtractServiceStub(connection.channel)

    def open(after: int) -> Any:
        asked = extract_pb2.RunSourceRequest()
        asked.CopyFrom(request)
        asked.after_sequence = after
        return stub.RunSource(asked, metadata=connection.metadata(request.source))

    return observe(open, after_sequence=request.after_sequence)


def run_transform(
    connection: Connection, request: transform_pb2.RunTransformRequest
) -> AsyncGenerator[run_pb2.RunEvent, None]:
    """Runs a transform, or attaches to the run of that request id. Raises RequestIdReused, TransformNotFound."""
    stub = transform_pb2_grpc.TransformServiceStub(connection.channel)

    def open(after: int) -> Any:
        asked = transform_pb2.RunTransformRequest()
        asked.CopyFrom(request)
        asked.after_sequence = after
        return stub.RunTransform(asked, metadata=connection.metadata(request.transform))

    return observe(open, after_sequence=request.after_sequence)


async def finished(events: AsyncGenerator[run_pb2.RunEvent, None]) -> run_pb2.RunFinished:
    """Waits for the end. Raises the run's own error when it failed."""
    async with contextlib.aclosing(events) as stream:
        async for event in stream:
            if event.WhichOneof("event") == "finished":
                if event.finished.state == run_pb2.RUN_STATE_FAILED:
                    raise status.in_band(event.finished.error)
                return event.finished
    raise errors.Unexpected("the run's events ended without `finished`")
