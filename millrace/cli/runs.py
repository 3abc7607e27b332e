"""A source's run, observed: resumed where the stream broke, ended by its own `finished`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import aclosing

from millrace import errors
from millrace.cli.kinds import short_name
from millrace.cli.session import Session
from millrace.client.runs import run_source
from millrace.client.status import from_status
from millrace.extract.v1 import extract_pb2
from millrace.types.v1 import run_pb2

Observer = Callable[[run_pb2.RunProgress], None]
Warned = Callable[[run_pb2.RunWarning], None]


def run_id(source: extract_pb2.Source, attempt: int = 0) -> str:
    """One id per source and spec: applying again attaches to the run that there was instead of running twice."""
    mark = hashlib.sha256(f"{source.uid}\0{source.etag}\0{attempt}".encode()).hexdigest()[:16]
    return f"apply-{short_name(source.name)}-{mark}"


async def run_once(
    session: Session, source: extract_pb2.Source, request_id: str, observe: Observer, warned: Warned
) -> run_pb2.RunFinished:
    """Runs `source` to the end of what it has now. Raises what ended a failed run, and millrace.errors of the stream."""
    request = extract_pb2.RunSourceRequest(source=source.name, request_id=request_id, mode=extract_pb2.RUN_MODE_ONCE)
    async with aclosing(run_source(session.connection("extract"), request)) as events:
        async for event in events:
            what = event.WhichOneof("event")
            if what == "progress":
                observe(event.progress)
            elif what == "warning":
                warned(event.warning)
            elif what == "finished":
                observe(event.finished.progress)
                _raise_failed(source, event.finished)
                return event.finished
    raise errors.Unexpected("the run's events ended without its end")


def _raise_failed(source: extract_pb2.Source, finished: run_pb2.RunFinished) -> None:
    if finished.state == run_pb2.RUN_STATE_SUCCEEDED:
        return
    name = short_name(source.name)
    if finished.state == run_pb2.RUN_STATE_CANCELLED:
        raise errors.Unexpected(f"the run of source `{name}` was cancelled", hint="apply the file again to run it")
    found = from_status(finished.error) or errors.Unexpected(finished.error.message or "no reason was given")
    found.message = f"the run of source `{name}` failed: {found.message}"
    found.hint = found.hint or "what it committed stays; mend the cause and apply the file again"
    raise found
