"""Frames of Ingest between proto and domain."""

from __future__ import annotations

from collections.abc import AsyncIterator

from millrace.errors import FieldInvalid, FieldRequired, StreamProtocol
from millrace.extract.v1 import extract_pb2 as pb
from millrace.types.v1 import types_pb2
from millrace.wire.clock import duration_proto
from millrace.wire.schema import schema_to_proto
from svc_extract.convert.positions import duration_ms, position_from, position_to, time_to
from svc_extract.convert.sources import on_bad_row_from
from svc_extract.domain.ingest import Finish, Flush, Frame, IngestBatch, IngestOpen, RecordFormat
from svc_extract.ports import OnBadRow, PushCommitted, PushDone, PushOpened

MAX_RECORDS = 20_000
"""In one message: a million empty ones take 2 MB on the wire and a minute of everyone's time to judge."""
_FORMATS = {pb.RECORD_FORMAT_JSON: RecordFormat.JSON, pb.RECORD_FORMAT_CSV: RecordFormat.CSV}


async def frames_from(requests: AsyncIterator[pb.IngestRequest]) -> AsyncIterator[Frame]:
    async for request in requests:
        yield frame_from(request)


def frame_from(request: pb.IngestRequest) -> Frame:
    """Raises StreamProtocol for an empty frame, FieldRequired and FieldInvalid naming the field."""
    match request.WhichOneof("message"):
        case "open":
            return _open(request.open)
        case "batch":
            return _batch(request.batch)
        case "flush":
            return Flush()
        case "finish":
            return Finish()
    raise StreamProtocol("a frame holds one of open, batch, flush, finish", field="message")


def _open(message: pb.IngestOpen) -> IngestOpen:
    interval = duration_ms(message.commit_interval) if message.HasField("commit_interval") else None
    if interval is not None and not 100 <= interval <= 60_000:
        raise FieldInvalid("0.1 to 60 s", field="open.commit_interval")
    given = message.on_bad_row != types_pb2.ON_BAD_ROW_UNSPECIFIED
    return IngestOpen(
        source=message.source,
        writer_id=message.writer_id,
        epoch=message.epoch,
        on_bad_row=on_bad_row_from(message.on_bad_row, OnBadRow.DEAD_LETTER) if given else None,
        validate_only=message.validate_only,
        commit_interval_ms=interval,
    )


def _batch(message: pb.IngestBatch) -> IngestBatch:
    kind = message.WhichOneof("payload")
    offset = message.offset if message.HasField("offset") else None
    position = position_from(message.position, field="batch.position") if message.HasField("position") else None
    if kind is None:
        raise FieldRequired("one of batch and records is needed", field="batch.payload")
    if kind == "batch":
        return IngestBatch(offset=offset, payload=message.batch, position=position)
    found = _FORMATS.get(message.records.format)
    if found is None:
        raise FieldInvalid("JSON or CSV", field="batch.records.format")
    if (count := len(message.records.records)) > MAX_RECORDS:
        raise FieldInvalid(
            f"{count:,} records; a message carries at most {MAX_RECORDS:,}",
            field="batch.records.records",
            hint="send them in several messages",
        )
    return IngestBatch(offset=offset, records=message.records.records, format=found, position=position)


def opened(found: PushOpened) -> pb.IngestResponse:
    return pb.IngestResponse(
        opened=pb.IngestOpened(
            epoch=found.epoch,
            next_offset=found.next_offset,
            position=position_to(found.position),
            schema=schema_to_proto(found.schema),
            max_unacked_bytes=found.max_unacked_bytes,
            max_unacked_batches=found.max_unacked_batches,
            max_message_bytes=found.max_message_bytes,
            ack_timeout=duration_proto(found.ack_timeout_ms * 1000),
        )
    )


def answer(found: PushCommitted | PushDone) -> pb.IngestResponse:
    if isinstance(found, PushDone):
        return pb.IngestResponse(done=pb.IngestDone(next_offset=found.next_offset, version=found.version))
    return pb.IngestResponse(
        committed=pb.IngestCommitted(
            next_offset=found.next_offset,
            version=found.version,
            commit_time=time_to(found.time_us),
            rows_written=found.rows_written,
            rows_dead_lettered=found.rows_dead_lettered,
            rows_duplicate=found.rows_duplicate,
            sample=[
                types_pb2.RowError(row_index=one.row_index, field=one.field, reason=one.reason, message=one.message)
                for one in found.sample
            ],
        )
    )


def heartbeat(now_us: int) -> pb.IngestResponse:
    return pb.IngestResponse(heartbeat=types_pb2.Heartbeat(time=time_to(now_us)))
