"""SubscribeRequest to the domain's wish, and its events to SubscribeResponse messages."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pyarrow as pa

from millrace.analysis.v1 import analysis_pb2
from millrace.errors import FieldInvalid
from millrace.wire.clock import duration_micros, duration_proto, timestamp_proto
from millrace.wire.schema import schema_to_proto
from svc_analysis.convert.queries import beat
from svc_analysis.convert.rows import Travel
from svc_analysis.convert.specs import fingerprint_of, question_from
from svc_analysis.domain.live import LiveQuestion
from svc_analysis.domain.subscriptions import DEFAULT_INTERVAL_S, Header, Mode, Shown, Subscription, Wish

_MODES = {
    analysis_pb2.SUBSCRIBE_MODE_UNSPECIFIED: Mode.AUTO,
    analysis_pb2.SUBSCRIBE_MODE_AUTO: Mode.AUTO,
    analysis_pb2.SUBSCRIBE_MODE_REPLACE: Mode.REPLACE,
    analysis_pb2.SUBSCRIBE_MODE_UPSERT: Mode.UPSERT,
}
_LOW_S, _HIGH_S = 0.05, 60.0


def wish_from(request: analysis_pb2.SubscribeRequest) -> Wish:
    """Raises FieldInvalid, FieldRequired."""
    if request.mode not in _MODES:
        raise FieldInvalid("AUTO, REPLACE or UPSERT is expected", field="mode")
    if request.max_rows < 0:
        raise FieldInvalid("0 (100,000) or more rows are expected", field="max_rows")
    interval = DEFAULT_INTERVAL_S
    if request.HasField("min_interval"):
        interval = duration_micros(request.min_interval, "min_interval") / 1e6
    if not _LOW_S <= interval <= _HIGH_S:
        raise FieldInvalid(f"{_LOW_S} to {_HIGH_S:.0f} s are expected", field="min_interval")
    alone = analysis_pb2.SubscribeRequest()
    alone.CopyFrom(request)
    for name in ("mode", "key_columns", "min_interval"):
        alone.ClearField(name)  # how it is followed is each subscriber's own: the computation is the same
    return Wish(
        live=LiveQuestion(question_from(alone), request.max_rows, request.deterministic),
        mode=_MODES[request.mode],
        key_columns=tuple(request.key_columns),
        min_interval_s=interval,
        resume_token=request.resume_token,
        fingerprint=fingerprint_of(request),
    )


class Messages:
    """A stream's messages, numbered from 1."""

    def __init__(self, subscription: Subscription, travel: Travel) -> None:
        self._subscription, self._travel = subscription, travel
        self._numbers = count(1)

    def header(self, header: Header) -> analysis_pb2.SubscribeResponse:
        found = analysis_pb2.SubscribeHeader(
            subscription_id=self._subscription.id,
            schema=schema_to_proto(header.schema),
            key_schema=schema_to_proto(header.key_schema),
            tables=self._subscription.tables,
        )
        return self.numbered(analysis_pb2.SubscribeResponse(header=found))

    def heartbeat(self) -> analysis_pb2.SubscribeResponse:
        message = analysis_pb2.SubscribeResponse(heartbeat=beat(), resume_token=self._subscription.token)
        return self.numbered(message)

    def frame(self, shown: Shown) -> Iterator[analysis_pb2.SubscribeResponse]:
        """`begin`, rows, `commit`, not numbered yet. Blocking, CPU."""
        kind = analysis_pb2.FRAME_KIND_REPLACE if shown.delta is None else analysis_pb2.FRAME_KIND_DELTA
        begin = analysis_pb2.FrameBegin(kind=kind, reason=shown.reason)
        yield analysis_pb2.SubscribeResponse(begin=begin)
        if shown.delta is not None:
            yield from self._rows(shown.delta.deletes, "delete")
        yield from self._rows(shown.frame.table if shown.delta is None else shown.delta.upserts, "upsert")
        yield analysis_pb2.SubscribeResponse(commit=_commit(shown), resume_token=shown.token)

    def _rows(self, table: pa.Table, field: str) -> Iterator[analysis_pb2.SubscribeResponse]:
        for batch in table.to_batches():
            if batch.num_rows:
                for rows in self._travel.messages(batch):
                    message = analysis_pb2.SubscribeResponse()
                    getattr(message, field).CopyFrom(rows)
                    yield message

    def numbered(self, message: analysis_pb2.SubscribeResponse) -> analysis_pb2.SubscribeResponse:
        """Call it right before writing, without anything in between: heartbeats come from another task."""
        message.sequence = next(self._numbers)
        return message


def _commit(shown: Shown) -> analysis_pb2.FrameCommit:
    frame = shown.frame
    found = analysis_pb2.FrameCommit(
        versions=dict(frame.versions),
        row_count=frame.table.num_rows,
        elapsed=duration_proto(round(frame.elapsed_s * 1e6)),
        conflated_versions=shown.conflated,
    )
    if frame.commit_time_us is not None:
        found.commit_time.CopyFrom(timestamp_proto(frame.commit_time_us))
    if frame.event_time_high_us is not None:
        found.event_time_high.CopyFrom(timestamp_proto(frame.event_time_high_us))
    return found
