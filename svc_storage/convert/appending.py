"""AppendRows' and MergeRows' frames, between proto and domain."""

from __future__ import annotations

import zlib

import pyarrow as pa

from millrace import errors
from millrace.arrow import slices
from millrace.storage.v1 import frames_pb2, merge_pb2
from millrace.storage.v1 import storage_pb2 as pb
from millrace.types.v1 import types_pb2
from millrace.wire.batch import batch_from_proto
from millrace.wire.clock import duration_micros, duration_proto, micros_of, timestamp_proto
from millrace.wire.schema import schema_to_proto
from svc_storage.convert.tables import position, position_to_proto
from svc_storage.domain.definition import table_name
from svc_storage.domain.writing.appending import (
    MAX_UNACKED_BATCHES,
    MAX_UNACKED_BYTES,
    AppendStream,
    Incoming,
    OpenRequest,
)
from svc_storage.domain.writing.dead_letters import ClientDeadLetter
from svc_storage.domain.writing.group import LONGEST_S, Ack

MAX_MESSAGE_BYTES = 4 << 20
_ACK_TIMEOUT_S = 30.0


SERVICES_OWN = ("sources/", "transforms/")
"""How extract and transform name their writers: taken by anybody else, a source of that name could never write."""


def open_from(
    frame: pb.AppendRowsRequest | merge_pb2.MergeRowsRequest, *, principal: str, is_service: bool, trace_context: str
) -> OpenRequest:
    """From the first frame. Raises StreamProtocol, FieldInvalid, NotAllowed."""
    if frame.WhichOneof("message") != "open":
        raise errors.StreamProtocol("the first frame is `open`", field="open")
    wish: pb.AppendOpen | merge_pb2.MergeOpen = frame.open
    table_name(wish.table, at="open.table")
    if wish.writer_id.startswith(SERVICES_OWN) and not is_service:
        raise errors.NotAllowed(
            f"writer ids that begin with {' or '.join(f'`{own}`' for own in SERVICES_OWN)} belong to services",
            field="open.writer_id",
            hint="choose another",
        )
    return OpenRequest(
        writer=wish.writer_id,
        epoch=wish.epoch,
        principal=principal,
        lease=wish.lease,
        keep_bad=wish.on_bad_row == types_pb2.ON_BAD_ROW_DEAD_LETTER,
        validate_only=wish.validate_only,
        interval_s=_interval_s(wish),
        trace_context=trace_context,
        op_column=wish.op_column if isinstance(wish, merge_pb2.MergeOpen) else None,
        sequence_column=wish.sequence_column if isinstance(wish, merge_pb2.MergeOpen) else "",
    )


def opened(stream: AppendStream, columns: pa.Schema, table_uid: str) -> frames_pb2.AppendOpened:
    state = stream.opened
    ack_timeout_s = _ACK_TIMEOUT_S + 2 * (stream.interval_s or LONGEST_S)
    covered = bool(state.positions) or state.event_time_high_us is not None
    return frames_pb2.AppendOpened(
        epoch=state.epoch,
        next_offset=state.next_offset,
        position=position_to_proto(state) if covered else None,
        schema=schema_to_proto(columns),
        version=stream.opened_version,
        max_unacked_bytes=MAX_UNACKED_BYTES,
        max_unacked_batches=MAX_UNACKED_BATCHES,
        max_message_bytes=MAX_MESSAGE_BYTES,
        ack_timeout=duration_proto(round(ack_timeout_s * 1e6)),
        table_uid=table_uid,
    )


def incoming_from(frame: frames_pb2.AppendBatch, schema: pa.Schema) -> Incoming:
    """Blocking (CPU): decodes, validates, sums. Raises FieldInvalid, SchemaMismatch, ArrowInvalid and their like."""
    payload = (
        frame.batch.arrow
        if frame.batch.WhichOneof("data") == "arrow"
        else frame.batch.SerializeToString(deterministic=True)
    )
    moves = frame.HasField("position")
    high = frame.position.event_time_high if moves and frame.position.HasField("event_time_high") else None
    rows = batch_from_proto(frame.batch, schema, where="batch.batch")
    for _ in slices.cut(rows):  # what ReadRows could never send must not get in
        pass
    return Incoming(
        offset=frame.offset,
        rows=rows,
        crc32=zlib.crc32(payload),
        size=len(payload) + sum(len(letter.raw) for letter in frame.dead_letters),
        positions=dict(frame.position.positions) if moves else None,
        event_time_high_us=None if high is None else micros_of(high, "batch.position.event_time_high"),
        dead=tuple(
            ClientDeadLetter(letter.row_index, letter.reason, letter.field, letter.raw) for letter in frame.dead_letters
        ),
    )


def committed(ack: Ack) -> frames_pb2.Committed:
    sample = [
        types_pb2.RowError(row_index=row.index, field=row.field, reason=row.reason, message=row.message)
        for row in ack.sample
    ]
    covered = bool(ack.positions) or ack.event_time_high_us is not None
    return frames_pb2.Committed(
        next_offset=ack.next_offset,
        version=ack.version,
        commit_time=timestamp_proto(ack.time_us),
        rows_written=ack.rows_written,
        rows_dead_lettered=ack.rows_dead,
        rows_duplicate=ack.rows_duplicate,
        sample=sample,
        position=position(ack.positions, ack.event_time_high_us) if covered else None,
        schema=None if ack.schema is None else schema_to_proto(ack.schema),
        rows_updated=ack.rows_updated,
        rows_deleted=ack.rows_deleted,
        rows_ignored=ack.rows_ignored,
    )


def done(stream: AppendStream) -> frames_pb2.Done:
    return frames_pb2.Done(next_offset=stream.next_offset, version=stream.last_version)


def heartbeat(now_us: int) -> types_pb2.Heartbeat:
    return types_pb2.Heartbeat(time=timestamp_proto(now_us))


def _interval_s(wish: pb.AppendOpen | merge_pb2.MergeOpen) -> float:
    if not wish.HasField("commit_interval"):
        return 0.0
    seconds = duration_micros(wish.commit_interval, "open.commit_interval") / 1e6
    if not 0.1 <= seconds <= 60.0:
        raise errors.FieldInvalid("a commit interval is 0.1 to 60 s", field="open.commit_interval")
    return seconds
