"""Plays a file by event time: what lies before `live_from` at once, the rest as time passes, `speed` times faster."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa

from millrace.errors import FieldInvalid, FieldRequired, MillraceError, SourcePaused
from millrace.extract.v1 import extract_pb2 as pb
from millrace.failpoints import failpoint
from millrace.wire.clock import micros_of
from svc_extract.adapters.connectors.files.checking import check_files
from svc_extract.adapters.connectors.files.listing import Roots
from svc_extract.adapters.connectors.files.options import FilesOptions, options_from
from svc_extract.adapters.connectors.replay.tape import Tape, load, the_file
from svc_extract.domain.names import short
from svc_extract.domain.parsing.parsed import pieces
from svc_extract.ports import (
    CheckReport,
    Chunk,
    Clock,
    ConnectorInfo,
    Finding,
    Guarantee,
    Position,
    SourceSpec,
    TableInfo,
    Until,
)

MAX_SPEED = 1_000_000
ROWS_AT_ONCE = 8_192
TICK_S, LONGEST_TICK_S = 0.1, 1.0
IDLE_FROM_S = 1.0
"""A gap of at least this much, in real seconds, is worth a word."""
PART = "replay"
_PLACE = re.compile(r"(\d+) ([0-9a-f]{16})")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions:
    """`speed`: event seconds per second. `live_from_us` None: nothing is loaded at once."""

    files: FilesOptions
    time_column: str
    speed: float
    live_from_us: int | None = None


def replay_options_from(message: pb.ReplayConnector) -> ReplayOptions:
    """Raises FieldRequired, FieldInvalid."""
    files = options_from(message.files, where="replay.files")
    if not message.time_column:
        raise FieldRequired("the column to play by is needed", field="replay.time_column")
    if not 0 < message.speed <= MAX_SPEED:
        raise FieldInvalid(f"above 0, at most {MAX_SPEED:,}", field="replay.speed")
    live = micros_of(message.live_from, "replay.live_from") if message.HasField("live_from") else None
    return ReplayOptions(files=files, time_column=message.time_column, speed=message.speed, live_from_us=live)


class ReplayConnector:
    info = ConnectorInfo(
        name="replay",
        description="A file played by event time, many times faster than it happened.",
        guarantee=Guarantee.REPLAYABLE,
        continuous=True,
        formats=("csv", "jsonl", "parquet", "gzip"),
    )

    def __init__(self, roots: Roots, clock: Clock) -> None:
        self._roots, self._clock = roots, clock

    def validate(self, spec: SourceSpec) -> None:
        self._roots.pattern(replay_options_from(spec.options).files.path)

    async def check(self, spec: SourceSpec, table: TableInfo) -> CheckReport:
        options = replay_options_from(spec.options)
        found = await asyncio.to_thread(check_files, self._roots, options.files, table.schema)
        findings = [
            Finding(one.fatal, one.reason, one.field.replace("files", "replay.files", 1), one.message)
            for one in found.findings
        ]
        if table.schema.get_field_index(options.time_column) < 0:
            findings.append(_no_time(f"the table has no column `{options.time_column}`"))
        elif not pa.types.is_timestamp(table.schema.field(options.time_column).type):
            findings.append(_no_time(f"`{options.time_column}` is no timestamp"))
        if (several := await asyncio.to_thread(self._several, options)) is not None:
            findings.append(several)
        return CheckReport(tuple(findings), found.schema, Guarantee.REPLAYABLE)

    def _several(self, options: ReplayOptions) -> Finding | None:
        try:
            the_file(self._roots, options.files)
        except FieldInvalid as error:
            return Finding(True, error.reason, error.field, error.message)
        except MillraceError:
            return None  # said already
        return None

    async def read(
        self, spec: SourceSpec, table: TableInfo, start: Position | None, until: Until
    ) -> AsyncGenerator[Chunk]:
        options = replay_options_from(spec.options)
        tape = await asyncio.to_thread(load, self._roots, options.files, table.schema, options.time_column)
        playing = _Playing(options, table, tape, _started_at(start, tape))
        async for chunk in playing.load():
            yield chunk
        timer = _Timer(self._clock, playing.begins_us(), options.speed)
        while playing.at < len(tape):
            now_us = timer.now_us()
            async for chunk in playing.up_to(now_us):
                yield chunk
            if playing.at < len(tape):
                wait_s = timer.until_s(playing.next_us())
                if wait_s >= IDLE_FROM_S:
                    yield Chunk(activity=playing.idle(), replay_time_us=round(now_us), fraction=playing.at / len(tape))
                await self._clock.sleep(max(TICK_S, min(wait_s, LONGEST_TICK_S)))
        yield Chunk(activity="replay finished", fraction=1.0, replay_time_us=playing.last_us())


def _no_time(message: str) -> Finding:
    return Finding(True, "SCHEMA_MISMATCH", "replay.time_column", message)


def _started_at(start: Position | None, tape: Tape) -> int:
    """The index to go on with. Raises SourcePaused when the file is another by now."""
    text = start.parts.get(PART) if start else None
    if text is None:
        return 0
    found = _PLACE.fullmatch(text)
    if found is None:
        raise FieldInvalid("the position of the replay cannot be read", field="start_override.positions")
    if found[2] != tape.fingerprint or int(found[1]) > len(tape):
        raise SourcePaused(
            "the file that is played was changed",
            field="replay.files.path",
            hint="put the file back, or create the source anew for a fresh table",
            metadata={"cause": "FILE_REPLACED"},
        )
    return int(found[1])


@dataclass(slots=True)
class _Timer:
    """Event time as it passes: `begins_us` when it was made."""

    clock: Clock
    begins_us: int
    speed: float
    made_s: float = 0.0

    def __post_init__(self) -> None:
        self.made_s = self.clock.monotonic_s()

    def now_us(self) -> float:
        return self.begins_us + (self.clock.monotonic_s() - self.made_s) * self.speed * 1e6

    def until_s(self, event_us: int) -> float:
        return (event_us - self.now_us()) / 1e6 / self.speed


@dataclass(slots=True)
class _Playing:
    """One playing of a tape. `at`: how many records are out."""

    options: ReplayOptions
    table: TableInfo
    tape: Tape
    at: int

    def begins_us(self) -> int:
        """The event time at which the clock begins: where it stopped, or the beginning of the live part."""
        loaded = self._loaded()
        if self.at > loaded or self.options.live_from_us is None:
            return int(self.tape.times[max(0, self.at - 1)]) if len(self.tape) else 0
        return self.options.live_from_us

    def next_us(self) -> int:
        return int(self.tape.times[self.at])

    def last_us(self) -> int | None:
        return int(self.tape.times[-1]) if len(self.tape) else None

    async def load(self) -> AsyncGenerator[Chunk]:
        """What lies before the live part, at full speed."""
        async for chunk in self._emit(self._loaded(), None):
            yield chunk

    async def up_to(self, now_us: float) -> AsyncGenerator[Chunk]:
        """What happened until now."""
        end = int(np.searchsorted(self.tape.times, now_us, side="right"))
        async for chunk in self._emit(end, round(now_us)):
            yield chunk

    def idle(self) -> str:
        """For people: until when nothing happens, in the zone of the column."""
        column = self.table.schema.field(self.options.time_column)
        zone = ZoneInfo(column.type.tz) if column.type.tz and column.type.tz[0] not in "+-" else dt.UTC
        at = dt.datetime.fromtimestamp(self.next_us() / 1e6, zone)
        return f"idle, no {short(self.table.name)} until {at:%H:%M}"

    def _loaded(self) -> int:
        live = self.options.live_from_us
        return 0 if live is None else int(np.searchsorted(self.tape.times, live, side="left"))

    async def _emit(self, end: int, now_us: int | None) -> AsyncGenerator[Chunk]:
        while self.at < end:
            upto = min(end, self.at + ROWS_AT_ONCE)
            for chunk in await asyncio.to_thread(
                lambda first, last: list(self._chunks(first, last, now_us)), self.at, upto
            ):
                failpoint("extract.after_read")
                yield chunk
            self.at = upto

    def _chunks(self, first: int, last: int, now_us: int | None) -> Iterator[Chunk]:
        tape = self.tape
        for piece in pieces(tape.records.parse(tape.order[first:last].tolist())):
            end = first + piece.first + piece.records
            time_us = int(tape.times[end - 1])
            yield Chunk(
                rows=piece.rows,
                dead_letters=piece.letters,
                position=Position({PART: f"{end} {tape.fingerprint}"}),
                fraction=end / len(tape),
                activity="" if now_us is not None else "loading",
                replay_time_us=time_us if now_us is None else now_us,
            )
