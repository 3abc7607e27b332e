"""Turns every exception into a rich status; on bidi streams in band first (contracts.md rule 1)."""

from __future__ import annotations

import asyncio
import logging
from typing import NoReturn

import grpc
from google.rpc import status_pb2

from millrace import errors as reasons
from millrace.server import status as table
from millrace.server.interceptors.call import Call, Proceed

HALF_CLOSE_LIMIT_S = 5.0
_END_REASONS = {"STREAM_AGED_OUT": "aged_out", "STREAM_DRAINING": "draining"}

_log = logging.getLogger(__name__)


class Errors:
    """A layer. Cancellation passes through: the client is gone, nobody hears an answer."""

    def __init__(self, *, half_close_limit_s: float = HALF_CLOSE_LIMIT_S) -> None:
        self._half_close_limit_s = half_close_limit_s

    async def __call__(self, call: Call, proceed: Proceed) -> bytes | None:
        if call.is_bidi:
            await call.context.send_initial_metadata(())  # stops a proxy's replay of the requests
        try:
            return await proceed(call)
        except grpc.aio.AbortError:
            raise
        except Exception as raised:
            error = table.from_exception(raised)
            _note(call, error, raised)
        return await self._fail(call, error)

    async def _fail(self, call: Call, error: reasons.MillraceError) -> NoReturn:
        await call.context.settled()
        unexpected = error.reason == reasons.Unexpected.reason
        rich = table.to_status(error, trace_id=call.trace_id if unexpected else "")
        if call.is_bidi and call.method.in_band_error is not None and call.requests is not None:
            await _say_in_band(call, rich)
            await call.requests.drain(self._half_close_limit_s)
        await call.context.abort(
            table.code_from_number(rich.code), rich.message, ((table.DETAILS_KEY, rich.SerializeToString()),)
        )
        raise AssertionError("abort raises")


async def _say_in_band(call: Call, rich: status_pb2.Status) -> None:
    if call.method.in_band_error is None:
        return
    try:
        async with asyncio.timeout(HALF_CLOSE_LIMIT_S):
            await call.context.send(call.method.in_band_error(rich))
    except TimeoutError:
        _log.debug("the client does not read: it gets the status alone")


def _note(call: Call, error: reasons.MillraceError, raised: Exception) -> None:
    """Keeps the outcome for telemetry. The text of an unmapped exception is logged, never sent."""
    outcome = call.outcome
    outcome.code, outcome.reason, outcome.message = table.code_of(error), error.reason, error.message
    outcome.end_reason = _END_REASONS.get(error.reason, "error")
    if isinstance(error, reasons.Broken):
        _log.error("%s failed: %s", call.method.name, error.message, exc_info=raised)
