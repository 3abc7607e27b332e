"""Files of a folder, picked up as they appear and grow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field

from millrace.errors import MillraceError, SourceUnavailable
from millrace.failpoints import failpoint
from svc_extract.adapters.connectors.files.checking import check_files
from svc_extract.adapters.connectors.files.listing import Roots, Sight
from svc_extract.adapters.connectors.files.options import FilesOptions, Format, options_from
from svc_extract.adapters.connectors.files.parquet import parquet_steps
from svc_extract.adapters.connectors.files.places import Place, matched, parse_all
from svc_extract.adapters.connectors.files.text import Step, open_text
from svc_extract.domain.merging import Merger
from svc_extract.domain.parsing.parsed import pieces
from svc_extract.ports import (
    CheckReport,
    Chunk,
    Clock,
    ConnectorInfo,
    Guarantee,
    Position,
    SourceSpec,
    TableInfo,
    Until,
)


class FilesConnector:
    info = ConnectorInfo(
        name="files",
        description="CSV, JSON lines and Parquet files of a folder, picked up as they appear and grow.",
        guarantee=Guarantee.REPLAYABLE,
        continuous=True,
        formats=("csv", "jsonl", "parquet", "gzip"),
    )

    def __init__(self, roots: Roots, clock: Clock) -> None:
        self._roots, self._clock = roots, clock

    def validate(self, spec: SourceSpec) -> None:
        self._roots.pattern(options_from(spec.options).path)

    async def check(self, spec: SourceSpec, table: TableInfo) -> CheckReport:
        return await asyncio.to_thread(check_files, self._roots, options_from(spec.options), table.schema)

    async def read(
        self, spec: SourceSpec, table: TableInfo, start: Position | None, until: Until
    ) -> AsyncGenerator[Chunk]:
        options = options_from(spec.options)
        reading = _Reading(self._roots, options, table, until, parse_all(start.parts if start else {}))
        while True:
            read_any, merger, failure = False, Merger(), None
            for sight in await asyncio.to_thread(reading.look):
                steps = reading.steps(sight)
                try:
                    while (chunk := await asyncio.to_thread(next, steps, None)) is not None:
                        read_any = read_any or bool(chunk.records)
                        if not merger.fits(chunk) and (whole := merger.take()) is not None:
                            yield whole
                        merger.add(chunk)
                except MillraceError as error:
                    failure = error
                    break
            if (rest := merger.take()) is not None:
                yield rest
            if failure is not None:  # what was read before is out
                raise failure
            if until is Until.END or (until is Until.CAUGHT_UP and not read_any):
                return
            if not read_any:
                yield Chunk(activity=reading.activity, fraction=1.0)
                await self._clock.sleep(min(options.poll_s, 5.0))


@dataclass(slots=True)
class _Reading:
    """One reading of all files. `places`: how far each got; `texts`: the same as it goes into positions."""

    roots: Roots
    options: FilesOptions
    table: TableInfo
    until: Until
    places: dict[str, Place]
    texts: dict[str, str] = field(default_factory=dict)
    seen: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    total_bytes: int = 0
    passed_bytes: int = 0
    activity: str = ""

    def look(self) -> list[Sight]:
        """The files that are new or changed since the last look, by name. Raises SourcePaused for a shrunk or replaced one."""
        sights = self.roots.sights(self.options.path)
        changed = [one for one in sights if self.seen.get(one.name) != (one.inode, one.size, one.changed_ns)]
        if changed or len(sights) != len(self.seen):
            self.places = matched(self.places, sights, whole=self._is_whole)
            self.texts = {name: place.text() for name, place in self.places.items() if place.head_bytes}
        self.seen = {one.name: (one.inode, one.size, one.changed_ns) for one in sights}
        self.activity = "waiting for new lines" if sights else "waiting for files"
        todo = [one for one in changed if not self.places[one.name].done]
        self.total_bytes = sum(one.size for one in todo)
        self.passed_bytes = 0
        return todo

    def steps(self, sight: Sight) -> Iterator[Chunk]:
        """The chunks of one file. Blocking."""
        parquet = self.options.format_of(sight.name) is Format.PARQUET
        try:
            yield from self._parquet(sight) if parquet else self._text(sight)
        except SourceUnavailable:
            # Not whole yet: another look, once it changed, may find it so.
            if self.until is not Until.STOPPED:
                raise
        self.passed_bytes += sight.size

    def _text(self, sight: Sight) -> Iterator[Chunk]:
        place = self.places[sight.name]
        final = self.until is Until.END or sight.name.lower().endswith(".gz")
        with open_text(sight, place, self.options, self.table.schema) as file:
            for step in file.steps(final=final):
                yield from self._chunks(sight, step, whole=file.packed)
            if file.packed and file.at_end:
                yield self._done(sight, file.offset)

    def _parquet(self, sight: Sight) -> Iterator[Chunk]:
        offset = self.places[sight.name].offset
        for step in parquet_steps(sight, offset, self.options, self.table.schema):
            offset = step.end
            yield from self._chunks(sight, step, whole=True)
        yield self._done(sight, offset)

    def _chunks(self, sight: Sight, step: Step, *, whole: bool) -> Iterator[Chunk]:
        """`whole`: offsets are not bytes of the file as it lies there, and all of it is known to stay as it is."""
        before = self.places[sight.name].offset
        for piece in pieces(step.parsed):
            failpoint("extract.after_read")
            last = piece.first + piece.records == step.parsed.records
            end = step.end if last else step.nexts[piece.first + piece.records - 1]
            self._move(sight, end, sight.size if whole else end, open_end=step.open_end and last)
            yield Chunk(
                rows=piece.rows,
                dead_letters=piece.letters,
                position=self._position(),
                source_bytes=max(0, end - before),
                fraction=self._fraction(end),
            )
            before = end

    def _done(self, sight: Sight, offset: int) -> Chunk:
        self._move(sight, offset, sight.size, done=True)
        return Chunk(position=self._position(), fraction=self._fraction(sight.size))

    def _move(self, sight: Sight, offset: int, readable: int, *, done: bool = False, open_end: bool = False) -> None:
        moved = self.places[sight.name].moved(offset, sight.path, readable=readable, done=done, open_end=open_end)
        self.places[sight.name] = moved
        self.texts = {**self.texts, sight.name: moved.text()}

    def _position(self) -> Position:
        return Position(self.texts)

    def _fraction(self, offset: int) -> float:
        return min(1.0, (self.passed_bytes + offset) / self.total_bytes) if self.total_bytes else 0.0

    def _is_whole(self, name: str) -> bool:
        return name.lower().endswith(".gz") or self.options.format_of(name) is Format.PARQUET
