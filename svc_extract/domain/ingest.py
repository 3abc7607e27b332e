"""Push: frames of a program into its source's table. Storage alone counts offsets; here only text becomes rows."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from millrace.errors import FieldInvalid, FieldRequired, NotAllowed, SourcePaused, StreamProtocol
from svc_extract.domain.parsing.columns import Naming, Plan
from svc_extract.domain.parsing.csv_rows import CsvRows
from svc_extract.domain.parsing.json_rows import JsonRows
from svc_extract.domain.parsing.parsed import Parsed
from svc_extract.domain.parsing.records import MAX_RECORD_BYTES, Dialect, split
from svc_extract.domain.sources import Sources
from svc_extract.ports import (
    OnBadRow,
    Position,
    PushChannel,
    PushCommitted,
    PushDone,
    PushGate,
    PushOpen,
    Source,
)

ASIDE_BYTES = 32 * 1024
ASIDE_RECORDS = 500
SETTLE_S = 3.0
"""How long a stream that should end waits for its last commit."""


class RecordFormat(StrEnum):
    JSON = "JSON"
    CSV = "CSV"


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestOpen:
    """As IngestOpen says. `on_bad_row`, `commit_interval_ms` None: what the source says."""

    source: str
    writer_id: str
    epoch: int = 0
    on_bad_row: OnBadRow | None = None
    validate_only: bool = False
    commit_interval_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestBatch:
    """`payload`: a batch as it came; else `records` of `format`."""

    offset: int | None
    payload: Any = None
    records: Sequence[bytes] = ()
    format: RecordFormat | None = None
    position: Position | None = None


@dataclass(frozen=True, slots=True)
class Flush:
    pass


@dataclass(frozen=True, slots=True)
class Finish:
    pass


Frame = IngestOpen | IngestBatch | Flush | Finish


class Ingest:
    def __init__(self, sources: Sources, gate: PushGate) -> None:
        self._sources, self._gate = sources, gate

    @asynccontextmanager
    async def open(self, first: Frame) -> AsyncIterator[IngestStream]:
        """Raises StreamProtocol, SourceNotFound, SourcePaused, NotAllowed, and what storage refuses."""
        if not isinstance(first, IngestOpen):
            raise StreamProtocol("the first frame is `open`", field="open")
        source = await self._sources.get(first.source)
        if source.spec.connector != "push":
            raise FieldInvalid(f"`{first.source}` is no push source", field="open.source", hint="put one with `push`")
        if source.spec.paused:
            raise SourcePaused("the source is paused", field="open.source")
        _check_writer(source, first.writer_id)
        async with self._gate.open(_push_open(source, first)) as channel:
            yield IngestStream(channel)


def _check_writer(source: Source, writer_id: str) -> None:
    allowed = list(source.spec.options.writers)
    if allowed and writer_id not in allowed:
        raise NotAllowed("this writer is not among the source's", field="open.writer_id")


def _push_open(source: Source, first: IngestOpen) -> PushOpen:
    spec = source.spec
    return PushOpen(
        table=spec.table,
        writer_id=first.writer_id,
        epoch=first.epoch,
        on_bad_row=first.on_bad_row or spec.on_bad_row,
        validate_only=first.validate_only,
        commit_interval_ms=first.commit_interval_ms or spec.commit_interval_ms,
    )


class IngestStream:
    """One open stream: `feed` takes the program's frames, `answers` are what it is told. Both run until `finish`, or until one fails."""

    def __init__(self, channel: PushChannel) -> None:
        self._channel = channel
        self.opened = channel.opened
        self._sent = self._acknowledged = self.opened.next_offset
        self._moved = asyncio.Event()
        schema = self.opened.schema
        width = len(schema)
        self._csv = CsvRows(Dialect(columns=width), Plan(tuple(range(width)), schema), ("",))
        self._json = JsonRows(schema, Naming())

    async def feed(self, frames: AsyncIterator[Frame]) -> None:
        """Raises StreamProtocol when the frames are out of order or end without `finish`."""
        async for frame in frames:
            match frame:
                case IngestBatch():
                    await self._send(frame)
                case Flush():
                    await self._channel.flush()
                case Finish():
                    await self._channel.finish()
                    return
                case _:
                    raise StreamProtocol("`open` comes once, first", field="open")
        raise StreamProtocol("the stream ended without `finish`: what was not committed is dropped", field="finish")

    async def answers(self) -> AsyncIterator[PushCommitted | PushDone]:
        async for answer in self._channel.answers():
            self._acknowledged = answer.next_offset
            self._moved.set()
            yield answer

    async def settle(self) -> None:
        """Commits what was sent; returns once it is acknowledged, after SETTLE_S at the latest. Somebody reads `answers` meanwhile."""
        await self._channel.flush()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_S):
                while self._acknowledged < self._sent:
                    self._moved.clear()
                    await self._moved.wait()

    async def _send(self, frame: IngestBatch) -> None:
        if frame.offset is None:
            raise FieldRequired("the first row's offset is needed, 0 too", field="batch.offset")
        if frame.format is None:
            await self._channel.send(frame.offset, None, frame.payload, (), frame.position)
            return self._was_sent(frame.offset + int(getattr(frame.payload, "row_count", 0)))
        if len(frame.records) > ASIDE_RECORDS or sum(map(len, frame.records)) > ASIDE_BYTES:
            parsed = await asyncio.to_thread(self._parsed, frame.records, frame.format)
        else:
            parsed = self._parsed(frame.records, frame.format)
        await self._channel.send(frame.offset, parsed.rows, None, parsed.letters, frame.position)
        return self._was_sent(frame.offset + parsed.records)

    def _was_sent(self, end: int) -> None:
        self._sent = max(self._sent, end)

    def _parsed(self, records: Sequence[bytes], format: RecordFormat) -> Parsed:
        """Each record is one row or one dead letter, whatever it holds."""
        if format is RecordFormat.JSON:
            bad = {index: "ROW_TOO_LARGE" for index, one in enumerate(records) if len(one) > MAX_RECORD_BYTES}
            return self._json.parse(records, bad)
        bad = {index: reason for index, one in enumerate(records) if (reason := self._csv_fault(one))}
        return self._csv.parse([one.rstrip(b"\r\n") for one in records], bad, records)

    def _csv_fault(self, record: bytes) -> str:
        if len(record) > MAX_RECORD_BYTES:
            return "ROW_TOO_LARGE"
        found = split(record, self._csv.dialect, final=True)
        if len(found) == 1:
            return found.bad.get(0, "")
        return "UNPARSEABLE"
