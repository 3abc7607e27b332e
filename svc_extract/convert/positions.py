"""Positions, dead letters and times between proto and domain."""

from __future__ import annotations

from google.protobuf import duration_pb2, timestamp_pb2

from millrace.errors import FieldInvalid
from millrace.storage.v1 import frames_pb2
from millrace.types.v1 import types_pb2
from millrace.wire.clock import micros_of, timestamp_proto
from svc_extract.ports import DeadLetter, Position

MAX_POSITION_BYTES = 256 * 1024


def position_from(message: types_pb2.Position, *, field: str = "position") -> Position:
    """Raises FieldInvalid beyond 256 KiB."""
    if message.ByteSize() > MAX_POSITION_BYTES:
        raise FieldInvalid("a position has at most 256 KiB", field=field)
    high = micros_of(message.event_time_high, field) if message.HasField("event_time_high") else None
    return Position(dict(message.positions), high)


def position_to(position: Position | None) -> types_pb2.Position | None:
    if position is None:
        return None
    message = types_pb2.Position(positions=dict(position.parts))
    if position.event_time_high_us is not None:
        message.event_time_high.CopyFrom(timestamp_proto(position.event_time_high_us))
    return message


def letter_to(one: DeadLetter) -> frames_pb2.DeadLetter:
    return frames_pb2.DeadLetter(row_index=one.row_index, reason=one.reason, field=one.field[:256], raw=one.raw)


def time_to(micros: int | None) -> timestamp_pb2.Timestamp | None:
    return None if micros is None else timestamp_proto(micros)


def time_from(message: timestamp_pb2.Timestamp) -> int | None:
    """None for the unset one."""
    return message.seconds * 1_000_000 + message.nanos // 1000 or None


def duration_ms(message: duration_pb2.Duration) -> int:
    return int(message.seconds * 1000 + message.nanos // 1_000_000)
