"""One table, reason to gRPC code, and the rich status made of an error (contracts.md section 5)."""

from __future__ import annotations

import errno

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from millrace import errors

Code = grpc.StatusCode

DETAILS_KEY = "grpc-status-details-bin"
MAX_STATUS_BYTES = 4096
MAX_VIOLATIONS = 20
_MAX_MESSAGE = 1000
_MAX_DESCRIPTION = 200

_REASONS_BY_CODE: dict[grpc.StatusCode, tuple[str, ...]] = {
    Code.INVALID_ARGUMENT: (
        *("FIELD_REQUIRED", "FIELD_INVALID", "SCHEMA_MISMATCH", "ROW_INVALID", "ROW_TOO_LARGE", "UNSUPPORTED_TYPE"),
        *("VALUE_NOT_REPRESENTABLE", "ARROW_INVALID", "ARROW_TOO_LARGE", "TOKEN_MISMATCH", "STREAM_PROTOCOL"),
        *("SQL_INVALID", "NO_PRIMARY_KEY"),
    ),
    Code.NOT_FOUND: (
        *("TABLE_NOT_FOUND", "SOURCE_NOT_FOUND", "TRANSFORM_NOT_FOUND", "DASHBOARD_NOT_FOUND", "RUN_NOT_FOUND"),
        "RESOURCE_NOT_FOUND",
    ),
    Code.ALREADY_EXISTS: ("RESOURCE_EXISTS", "REQUEST_ID_REUSED"),
    Code.FAILED_PRECONDITION: (
        *("WRITER_FENCED", "LEASE_LOST", "OFFSET_OVERLAP", "SCHEMA_CONFLICT", "LEASE_HELD", "TABLE_RECREATED"),
        *("WRITER_MODE_CONFLICT", "TABLE_HAS_DEPENDENTS", "VERSION_IN_FUTURE", "TOKEN_UNSUPPORTED", "SOURCE_PAUSED"),
        "CHANGES_NOT_APPEND_ONLY",
    ),
    Code.ABORTED: (
        *("ETAG_MISMATCH", "OFFSET_CONTENT_MISMATCH", "WRITER_SUPERSEDED", "ALREADY_RUNNING", "COMMIT_CONFLICT"),
        *("STREAM_AGED_OUT", "STREAM_DRAINING"),
    ),
    Code.OUT_OF_RANGE: ("OFFSET_GAP", "VERSION_EXPIRED", "REVISION_EXPIRED", "RESULT_EXPIRED"),
    Code.RESOURCE_EXHAUSTED: ("QUOTA_EXCEEDED", "TOO_MANY_STREAMS", "RESULT_TOO_LARGE", "MEMORY_LIMIT", "DISK_FULL"),
    Code.UNAVAILABLE: ("STORE_UNAVAILABLE", "SOURCE_UNAVAILABLE", "STARTING", "COMMIT_UNKNOWN"),
    Code.PERMISSION_DENIED: ("NOT_ALLOWED",),
    Code.UNAUTHENTICATED: ("TOKEN_INVALID",),
    Code.DEADLINE_EXCEEDED: ("DEADLINE_PASSED",),
    Code.UNIMPLEMENTED: ("BACKEND_CAPABILITY",),
    Code.DATA_LOSS: ("CHECKSUM_MISMATCH", "FILE_MISSING"),
    Code.INTERNAL: ("UNEXPECTED",),
}
CODES: dict[str, grpc.StatusCode] = {reason: code for code, reasons in _REASONS_BY_CODE.items() for reason in reasons}
"""Reason -> code. A test holds it equal to `millrace.errors` and to the enum `millrace.types.v1.Reason`."""

_BY_NUMBER = {code.value[0]: code for code in Code}


def code_of(error: errors.MillraceError) -> grpc.StatusCode:
    return CODES.get(error.reason, Code.INTERNAL)


def code_from_number(number: int) -> grpc.StatusCode:
    """The code of a google.rpc.Status; UNKNOWN for a number gRPC does not have."""
    return _BY_NUMBER.get(number, Code.UNKNOWN)


def to_status(error: errors.MillraceError, *, trace_id: str = "") -> status_pb2.Status:
    """The status a caller gets: ErrorInfo, then BadRequest, RetryInfo and LocalizedMessage (the hint) where they apply.

    At most `MAX_STATUS_BYTES`; violations are cut to 20, metadata `violations_total` then says how many there were.
    """
    kept = _violations(error)[:MAX_VIOLATIONS]
    while True:
        status = _assemble(error, kept, trace_id)
        if status.ByteSize() <= MAX_STATUS_BYTES:
            return status
        if not kept:
            return _bare_minimum(error, trace_id)
        kept = kept[: len(kept) // 2]


def _violations(error: errors.MillraceError) -> list[tuple[str, str]]:
    first = [(error.field, error.message)] if error.field else []
    return first + [pair for pair in error.violations if pair not in first]


def _assemble(error: errors.MillraceError, kept: list[tuple[str, str]], trace_id: str) -> status_pb2.Status:
    metadata = {str(key): str(value) for key, value in error.metadata.items()}
    if (total := len(_violations(error))) > len(kept):
        metadata["violations_total"] = str(total)
    if trace_id:
        metadata["trace_id"] = trace_id
    status = status_pb2.Status(code=code_of(error).value[0], message=error.message[:_MAX_MESSAGE])
    _add(status, error_details_pb2.ErrorInfo(reason=error.reason, domain=errors.DOMAIN, metadata=metadata))
    if kept:
        violation = error_details_pb2.BadRequest.FieldViolation
        pairs = [violation(field=field, description=text[:_MAX_DESCRIPTION]) for field, text in kept]
        _add(status, error_details_pb2.BadRequest(field_violations=pairs))
    if error.retry_after_ms is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(error.retry_after_ms)
        _add(status, retry)
    if error.hint:
        _add(status, error_details_pb2.LocalizedMessage(locale="en", message=error.hint[:_MAX_MESSAGE]))
    return status


def _bare_minimum(error: errors.MillraceError, trace_id: str) -> status_pb2.Status:
    """For metadata that alone is too large: the short entries only."""
    short = {key: value for key, value in error.metadata.items() if len(str(value)) <= 64}
    info = error_details_pb2.ErrorInfo(
        reason=error.reason, domain=errors.DOMAIN, metadata=dict(list(short.items())[:10])
    )
    if trace_id:
        info.metadata["trace_id"] = trace_id
    status = status_pb2.Status(code=code_of(error).value[0], message=error.message[:_MAX_MESSAGE])
    _add(status, info)
    return status


def _add(status: status_pb2.Status, detail: object) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)  # type: ignore[arg-type]
    status.details.append(packed)


def from_status(status: status_pb2.Status) -> errors.MillraceError | None:
    """The error a Millrace server put into `status`; None when it is bare."""
    info, field, hint, pause = error_details_pb2.ErrorInfo(), "", "", None
    violations: tuple[tuple[str, str], ...] = ()
    for detail in status.details:
        bad, retry, said = (
            error_details_pb2.BadRequest(),
            error_details_pb2.RetryInfo(),
            error_details_pb2.LocalizedMessage(),
        )
        if detail.Unpack(bad):
            violations = tuple((one.field, one.description) for one in bad.field_violations)
        elif detail.Unpack(retry):
            pause = retry.retry_delay.ToMilliseconds()
        elif detail.Unpack(said):
            hint = said.message
        else:
            detail.Unpack(info)
    if info.domain != errors.DOMAIN:
        return None
    if violations and violations[0][1] == status.message:
        field, violations = violations[0][0], violations[1:]
    return errors.from_reason(
        info.reason,
        status.message,
        field=field,
        hint=hint,
        metadata=dict(info.metadata),
        retry_after_ms=pause,
        violations=violations,
    )


def from_rpc_error(error: grpc.aio.AioRpcError) -> errors.MillraceError:
    """What a peer answered, with its reason; a bare status becomes the reason that says the same."""
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            status = status_pb2.Status()
            try:
                status.ParseFromString(value)
            except ValueError:
                break
            if (found := from_status(status)) is not None:
                return found
    return _from_bare(error.code())


def _from_bare(code: grpc.StatusCode) -> errors.MillraceError:
    if code is Code.DEADLINE_EXCEEDED:
        return errors.DeadlineTooShort("a service that this one calls did not answer in time")
    if code in (Code.UNAVAILABLE, Code.INTERNAL, Code.UNKNOWN, Code.CANCELLED):
        return errors.StoreUnavailable("a service that this one calls does not answer", retry_after_ms=1000)
    name = code_pb2.Code.Name(code.value[0])
    return errors.Unexpected(
        f"a service that this one calls answered {name} without a reason", metadata={"peer_code": name}
    )


def _known(error: errors.MillraceError) -> errors.MillraceError:
    """For the client's own errors, whose reasons no server may send: a peer that broke off, or that answered without a reason."""
    if isinstance(error, errors.RetryLater):
        return _from_bare(Code.UNAVAILABLE)
    return _from_bare(Code.__members__.get(error.metadata.get("grpc_code", ""), Code.UNIMPLEMENTED))


def from_exception(error: BaseException) -> errors.MillraceError:
    """What leaves the server for `error`. Anything that nobody mapped is UNEXPECTED: its text stays in the log."""
    if isinstance(error, errors.MillraceError):
        return error if error.reason in CODES else _known(error)
    if isinstance(error, grpc.aio.AioRpcError):
        return from_rpc_error(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return errors.DiskFull(
            "the disk is full", hint="free some room; writers go on by themselves", retry_after_ms=5000
        )
    if isinstance(error, MemoryError):
        return errors.MemoryLimit("the work needs more memory than there is", hint="narrow the request")
    if isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        return from_exception(error.exceptions[0])
    return errors.Unexpected(
        f"a bug in Millrace ({type(error).__name__})", hint="report it with the trace id; the server's log has the rest"
    )
