"""What can go wrong, in families that say what the caller does next.

A family answers "and now?"; a reason (contracts.md section 5, `millrace.types.v1.Reason`) says why. Servers
raise these classes, one table (`millrace/server/status.py`) turns a reason into a gRPC code, and the client raises the
same class again from the reason it received (`from_reason`). This module imports nothing of Millrace.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

DOMAIN = "millrace.dev"
"""The `ErrorInfo.domain` of every status that Millrace itself made. A status without it is *bare*: transport, proxy, mesh."""


class MillraceError(Exception):
    """Base of all. `message` is for people (no row values, no paths, no secrets); `reason` and `metadata` are contract.

    `field`: path of the offending request field, proto style (`open.writer_id`), or empty.
    `hint`: what to do next, one sentence. `retry_after_ms`: None unless the server names a pause.
    `violations`: further (field, description) pairs; the status carries the first 20.
    """

    reason: ClassVar[str] = "UNEXPECTED"

    def __init__(
        self,
        message: str,
        *,
        field: str = "",
        hint: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_after_ms: int | None = None,
        violations: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.hint = hint
        self.metadata: dict[str, str] = dict(metadata or {})
        self.retry_after_ms = retry_after_ms
        self.violations = violations


class FixRequest(MillraceError):
    """Change the request; `field` says where. Repeating it unchanged gives the same answer."""


class Missing(MillraceError):
    """The named thing does not exist (or no longer)."""


class Exists(MillraceError):
    """The name or id is taken by something else."""


class Reload(MillraceError):
    """The state moved on: read it again, decide anew."""


class RetryLater(MillraceError):
    """The same request again after `retry_after_ms` (None: back off)."""


class Stop(MillraceError):
    """Fenced or forbidden: another owner, or a person, decides. Do not repeat."""


class Broken(MillraceError):
    """Stored data or the program is damaged: a person must look."""


class OutcomeUnknown(MillraceError):
    """It may have happened: resolve by reading. Adapters raise it for anything unlisted."""

    reason = "COMMIT_UNKNOWN"


class Unexpected(Broken):
    """A bug. Every unmapped exception leaves a server as this, never bare."""

    reason = "UNEXPECTED"


# -- FixRequest: INVALID_ARGUMENT -------------------------------------------------------------------------------------
class FieldRequired(FixRequest):
    reason = "FIELD_REQUIRED"


class FieldInvalid(FixRequest):
    reason = "FIELD_INVALID"


class SchemaMismatch(FixRequest):
    reason = "SCHEMA_MISMATCH"


class RowInvalid(FixRequest):
    reason = "ROW_INVALID"


class RowTooLarge(FixRequest):
    reason = "ROW_TOO_LARGE"


class UnsupportedType(FixRequest):
    reason = "UNSUPPORTED_TYPE"


class ValueNotRepresentable(FixRequest):
    reason = "VALUE_NOT_REPRESENTABLE"


class ArrowInvalid(FixRequest):
    reason = "ARROW_INVALID"


class ArrowTooLarge(FixRequest):
    reason = "ARROW_TOO_LARGE"


class TokenMismatch(FixRequest):
    reason = "TOKEN_MISMATCH"


class StreamProtocol(FixRequest):
    """Frames out of order: no `open` first, a second `open`, a batch after `finish`."""

    reason = "STREAM_PROTOCOL"


class SqlInvalid(FixRequest):
    reason = "SQL_INVALID"


class NoPrimaryKey(FixRequest):
    reason = "NO_PRIMARY_KEY"


# -- NOT_FOUND, ALREADY_EXISTS ----------------------------------------------------------------------------------------
class TableNotFound(Missing):
    reason = "TABLE_NOT_FOUND"


class SourceNotFound(Missing):
    reason = "SOURCE_NOT_FOUND"


class TransformNotFound(Missing):
    reason = "TRANSFORM_NOT_FOUND"


class DashboardNotFound(Missing):
    reason = "DASHBOARD_NOT_FOUND"


class RunNotFound(Missing):
    reason = "RUN_NOT_FOUND"


class ResourceNotFound(Missing):
    """A resource of a collection that has no reason of its own (readers, pipelines, subscriptions)."""

    reason = "RESOURCE_NOT_FOUND"


class ResourceExists(Exists):
    reason = "RESOURCE_EXISTS"


class RequestIdReused(Exists):
    """The same `request_id` came with another request."""

    reason = "REQUEST_ID_REUSED"


# -- FAILED_PRECONDITION ----------------------------------------------------------------------------------------------
class WriterFenced(Stop):
    reason = "WRITER_FENCED"


class LeaseLost(Stop):
    reason = "LEASE_LOST"


class OffsetOverlap(Reload):
    """Metadata `next_offset`: the stream is over, open again and send from there."""

    reason = "OFFSET_OVERLAP"


class SchemaConflict(Reload):
    reason = "SCHEMA_CONFLICT"


class LeaseHeld(RetryLater):
    reason = "LEASE_HELD"


class TableRecreated(Reload):
    reason = "TABLE_RECREATED"


class WriterModeConflict(Stop):
    reason = "WRITER_MODE_CONFLICT"


class TableHasDependents(Stop):
    reason = "TABLE_HAS_DEPENDENTS"


class VersionInFuture(Reload):
    reason = "VERSION_IN_FUTURE"


class TokenUnsupported(Reload):
    reason = "TOKEN_UNSUPPORTED"


class SourcePaused(Stop):
    reason = "SOURCE_PAUSED"


class ChangesNotAppendOnly(Reload):
    reason = "CHANGES_NOT_APPEND_ONLY"


# -- ABORTED ----------------------------------------------------------------------------------------------------------
class EtagMismatch(Reload):
    reason = "ETAG_MISMATCH"


class OffsetContentMismatch(Reload):
    reason = "OFFSET_CONTENT_MISMATCH"


class WriterSuperseded(Stop):
    reason = "WRITER_SUPERSEDED"


class AlreadyRunning(RetryLater):
    reason = "ALREADY_RUNNING"


class CommitConflict(RetryLater):
    reason = "COMMIT_CONFLICT"


class StreamAgedOut(RetryLater):
    reason = "STREAM_AGED_OUT"


class StreamDraining(RetryLater):
    reason = "STREAM_DRAINING"


# -- OUT_OF_RANGE -----------------------------------------------------------------------------------------------------
class OffsetGap(Reload):
    """Metadata `next_offset`: the stream is over, open again and send from there."""

    reason = "OFFSET_GAP"


class VersionExpired(Reload):
    """Metadata `oldest_version`: the oldest that can still be read."""

    reason = "VERSION_EXPIRED"


class RevisionExpired(Reload):
    reason = "REVISION_EXPIRED"


class ResultExpired(Reload):
    reason = "RESULT_EXPIRED"


# -- RESOURCE_EXHAUSTED -----------------------------------------------------------------------------------------------
class QuotaExceeded(RetryLater):
    reason = "QUOTA_EXCEEDED"


class TooManyStreams(RetryLater):
    reason = "TOO_MANY_STREAMS"


class ResultTooLarge(FixRequest):
    reason = "RESULT_TOO_LARGE"


class MemoryLimit(FixRequest):
    reason = "MEMORY_LIMIT"


class DiskFull(RetryLater):
    reason = "DISK_FULL"


# -- UNAVAILABLE ------------------------------------------------------------------------------------------------------
class StoreUnavailable(RetryLater):
    reason = "STORE_UNAVAILABLE"


class SourceUnavailable(RetryLater):
    reason = "SOURCE_UNAVAILABLE"


class Starting(RetryLater):
    reason = "STARTING"


# -- PERMISSION_DENIED, UNAUTHENTICATED -------------------------------------------------------------------------------
class NotAllowed(Stop):
    reason = "NOT_ALLOWED"


class TokenInvalid(Stop):
    reason = "TOKEN_INVALID"


# -- UNIMPLEMENTED, DATA_LOSS, DEADLINE_EXCEEDED ----------------------------------------------------------------------
class BackendCapability(Stop):
    """The backend declares that it cannot do this."""

    reason = "BACKEND_CAPABILITY"


class ChecksumMismatch(Broken):
    reason = "CHECKSUM_MISMATCH"


class FileMissing(Broken):
    reason = "FILE_MISSING"


class DeadlineTooShort(RetryLater):
    """The call's deadline passed before the work was done; nothing more happens after it."""

    reason = "DEADLINE_PASSED"


def _reasons(base: type[MillraceError]) -> dict[str, type[MillraceError]]:
    found: dict[str, type[MillraceError]] = {}
    for child in base.__subclasses__():
        if "reason" in child.__dict__:
            found[child.reason] = child
        found.update(_reasons(child))
    return found


def reasons() -> Mapping[str, type[MillraceError]]:
    """Every reason with the class that carries it."""
    return _reasons(MillraceError)


def from_reason(
    reason: str,
    message: str,
    *,
    field: str = "",
    hint: str = "",
    metadata: Mapping[str, str] | None = None,
    retry_after_ms: int | None = None,
    violations: tuple[tuple[str, str], ...] = (),
) -> MillraceError:
    """The error a server raised, from what its status carried. An unknown reason (a newer server) becomes `Unexpected`."""
    kind = reasons().get(reason, Unexpected)
    return kind(
        message, field=field, hint=hint, metadata=metadata, retry_after_ms=retry_after_ms, violations=violations
    )
