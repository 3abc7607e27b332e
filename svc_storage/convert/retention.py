"""A table's retention, between proto and domain."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration

from millrace import errors
from millrace.storage.v1 import maintenance_pb2 as pb
from svc_storage.domain.retention import Retention


def retention_from(message: pb.Retention) -> Retention:
    """Raises FieldInvalid."""
    return Retention(
        keep_rows_us=_micros(message, "keep_rows"),
        exact=message.exact,
        keep_versions_us=_micros(message, "keep_versions"),
    )


def retention_to(retention: Retention) -> pb.Retention | None:
    """None for a table without one."""
    if retention == Retention():
        return None
    return pb.Retention(
        keep_rows=_duration(retention.keep_rows_us),
        exact=retention.exact,
        keep_versions=_duration(retention.keep_versions_us),
    )


def _micros(message: pb.Retention, name: str) -> int:
    if not message.HasField(name):  # type: ignore[arg-type]
        return 0
    wanted: Duration = getattr(message, name)
    if wanted.seconds <= 0 or wanted.nanos < 0:
        raise errors.FieldInvalid("a span of time above 0; leave it out for none", field=f"table.retention.{name}")
    return wanted.seconds * 1_000_000 + wanted.nanos // 1_000


def _duration(micros: int) -> Duration | None:
    if not micros:
        return None
    found = Duration()
    found.FromMicroseconds(micros)
    return found
