"""From gRPC's errors to Millrace's: by ErrorInfo, never by code or text. A status without one is *bare*."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from millrace import errors

DETAILS_KEY = "grpc-status-details-bin"
_TRANSPORT = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED}
)


class _Bare:
    # Not a reason of the contract (contracts.md section 5): no server ever sends it, so `errors.reasons()` must not list it.
    reason = "TRANSPORT"


class Unreachable(_Bare, errors.RetryLater):
    """The connection broke, or a proxy said so: nobody knows what the server did. Metadata `grpc_code`."""


class Refused(_Bare, errors.Stop):
    """A status without a reason that is no break: something between here and the server is set up wrongly. Metadata `grpc_code`."""


class ForeignCancel(Exception):
    """The call was cancelled, but not by us."""


CALL_ERRORS = (grpc.aio.AioRpcError, ForeignCancel)
"""What `raising` and `read` raise for a call that failed."""


async def raising(awaited: Awaitable[Any]) -> Any:
    """What `awaited` (a call's answer or next message) gives. Raises ForeignCancel where gRPC raises CancelledError although nobody
    cancelled this task: a closed channel, or a status CANCELLED from a proxy."""
    task = asyncio.current_task()
    try:
        return await awaited
    except asyncio.CancelledError:
        if task is not None and task.cancelling() == 0:
            raise ForeignCancel from None
        raise


def error_of(error: BaseException) -> errors.MillraceError:
    """Any failure of a call as one of Millrace's errors; `Unreachable` or `Refused` when it is bare."""
    if isinstance(error, errors.MillraceError):
        return error
    if isinstance(error, grpc.aio.AioRpcError):
        return _from_rpc(error)
    return Unreachable("the call was cut off", metadata={"grpc_code": "CANCELLED"})


def _from_rpc(error: grpc.aio.AioRpcError) -> errors.MillraceError:
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            rich = status_pb2.Status()
            try:
                rich.ParseFromString(value)
            except ValueError:
                break
            found = from_status(rich)
            if found is not None:
                return found
    return bare(error.code(), error.details() or "")


def bare(code: grpc.StatusCode, details: str) -> errors.MillraceError:
    """The error for a status that no Millrace server made."""
    metadata = {"grpc_code": code.name}
    if code in _TRANSPORT:
        return Unreachable(f"the connection broke ({code.name}: {details[:200]})", metadata=metadata)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return errors.DeadlineTooShort("no answer in time", metadata=metadata)
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return errors.TokenInvalid(f"the token was refused on the way ({details[:200]})", metadata=metadata)
    if code is grpc.StatusCode.PERMISSION_DENIED:
        return errors.NotAllowed(f"refused on the way ({details[:200]})", metadata=metadata)
    return Refused(
        f"{code.name}: {details[:200]}",
        metadata=metadata,
        hint="check address, versions and proxy: no Millrace service answered this",
    )


def from_status(status: status_pb2.Status) -> errors.MillraceError | None:
    """The error that a Millrace server put into `status`, also in band (`error` of a response); None when it is bare."""
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    pause, hint = error_details_pb2.RetryInfo(), error_details_pb2.LocalizedMessage()
    has_pause = False
    for detail in status.details:
        for kind in (info, bad, pause, hint):
            if detail.Is(kind.DESCRIPTOR):
                detail.Unpack(kind)
                has_pause = has_pause or kind is pause
    if info.domain != errors.DOMAIN:
        return None
    violations = tuple((one.field, one.description) for one in bad.field_violations)
    return errors.from_reason(
        info.reason,
        status.message,
        field=violations[0][0] if violations else "",
        hint=hint.message,
        metadata=dict(info.metadata),
        retry_after_ms=pause.retry_delay.ToMilliseconds() if has_pause else None,
        violations=violations[1:],
    )


def in_band(status: status_pb2.Status) -> errors.MillraceError:
    """The error of a response's `error` field."""
    found = from_status(status)
    return found if found is not None else Unreachable(status.message[:200], metadata={"grpc_code": str(status.code)})
