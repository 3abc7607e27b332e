"""The driver's errors in our words: what is retried here, what the caller retries, and what only reading can tell."""

from __future__ import annotations

from cassandra import (
    AuthenticationFailed,
    InvalidRequest,
    OperationTimedOut,
    Unauthorized,
    Unavailable,
    UnsupportedOperation,
)
from cassandra.cluster import NoHostAvailable
from cassandra.connection import ConnectionBusy
from cassandra.pool import NoConnectionsAvailable
from cassandra.protocol import SyntaxException

from millrace import errors

RETRY_AFTER_MS = 1_000
_CAS_WRITE_UNKNOWN = 0x1700
"""Which the driver does not know: it comes as a plain ErrorMessage."""


def is_busy(error: BaseException) -> bool:
    """No connection took the request: its buffer is full, or all its request ids are in use. It was not sent."""
    if isinstance(error, NoHostAvailable):
        causes = list(error.errors.values()) if isinstance(error.errors, dict) else []
        return bool(causes) and any(is_busy(cause) for cause in causes)
    return isinstance(error, ConnectionBusy | NoConnectionsAvailable)


def was_disturbed(error: BaseException) -> bool:
    """A read at SERIAL first settles the conditional write that is under way, and another one came between: the same again will do."""
    return getattr(error, "code", None) == _CAS_WRITE_UNKNOWN


def is_refusal(error: BaseException) -> bool:
    """The server understood, and will refuse the same again."""
    return isinstance(error, InvalidRequest | SyntaxException | Unauthorized | UnsupportedOperation)


def has_not_happened(error: BaseException, *, sent: bool) -> bool:
    """Whether a write is known to have changed nothing. `sent`: some node was given the request."""
    return not sent or isinstance(error, Unavailable) or is_refusal(error)


def translated(error: BaseException, what: str) -> errors.MillraceError:
    """For a read, or a write that may be repeated as it is."""
    if refused := credentials(error):
        return refused
    if is_refusal(error):
        return errors.Unexpected(f"Cassandra refused {what}: {type(error).__name__}: {str(error)[:200]}")
    return errors.StoreUnavailable(
        f"Cassandra did not answer {what}: {_short(error)}",
        hint="nothing is lost; the same again in a moment",
        retry_after_ms=RETRY_AFTER_MS,
    )


def unknown(error: BaseException, what: str) -> errors.OutcomeUnknown:
    """For a conditional write that some node was given."""
    return errors.OutcomeUnknown(f"Cassandra did not say whether {what} happened: {_short(error)}")


def credentials(error: BaseException) -> errors.MillraceError | None:
    """Wrong user or password, or none where one is needed."""
    causes = (
        list(error.errors.values())
        if isinstance(error, NoHostAvailable) and isinstance(error.errors, dict)
        else [error]
    )
    if any(isinstance(cause, AuthenticationFailed) or "authenticat" in str(cause).lower() for cause in causes):
        return errors.NotAllowed(
            "Cassandra refused the credentials",
            hint="set MILLRACE_STORAGE_CASSANDRA_USER and _PASSWORD (env:NAME or file:PATH)",
        )
    return None


def _short(error: BaseException) -> str:
    """Without addresses."""
    if isinstance(error, NoHostAvailable):
        return "no node can be reached"
    if isinstance(error, OperationTimedOut):
        return "no answer in time"
    if was_disturbed(error):
        return "another conditional write came between"
    return type(error).__name__
