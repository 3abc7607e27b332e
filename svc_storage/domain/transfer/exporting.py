"""A version of a table goes into the archive, file by file. Broken off, it goes on after the last whole file."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, replace
from typing import TypeVar

import pyarrow as pa

from millrace import errors
from millrace.failpoints import failpoint
from svc_storage.domain.transfer.archive import JOB, MANIFEST, PART_ROWS, Manifest
from svc_storage.domain.writing import dead_letters
from svc_storage.ports import Archive, ArchivePart, DataFile, Snapshot, TableFiles, TableRow

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Moved:
    """So far. `total_rows`: rows and dead letters that there are in all."""

    rows: int
    bytes: int
    total_rows: int


class Export:
    """Of one pinned version; `destination` is a folder of the archive that was checked. `pool` takes the blocking work."""

    def __init__(
        self, row: TableRow, snapshot: Snapshot, files: TableFiles, archive: Archive, destination: str, pool: Executor
    ) -> None:
        self._row, self._snapshot, self._files = row, snapshot, files
        self._archive, self._to, self._pool = archive, destination, pool

    async def run(self) -> AsyncIterator[Moved]:
        """After each file; the manifest is there after the last. Raises ResourceExists when the destination holds another export."""
        if await self._done():
            return
        rows = ordered(self._snapshot.files.values())
        dead = [DataFile(f.path, f.size_bytes, f.row_count, 0, f.added_in) for f in self._snapshot.dead_letters]
        total = sum(file.row_count for file in (*rows, *dead))
        parts: dict[str, list[ArchivePart]] = {"rows": [], "dead_letters": []}
        moved = size = 0
        for kind, files, schema in (
            ("rows", rows, self._snapshot.schema),
            ("dead_letters", dead, dead_letters.SCHEMA),
        ):
            for number, span in enumerate(spans(files)):
                part = await self._part(f"{kind}/{number:06d}", span, schema)
                parts[kind].append(part)
                moved, size = moved + part.row_count, size + part.size_bytes
                yield Moved(moved, size, total)
        manifest = self._manifest(parts["rows"], parts["dead_letters"])
        failpoint("storage.before_manifest")
        await self._work(lambda: self._archive.put(f"{self._to}/{MANIFEST}", manifest.to_bytes()))

    async def _done(self) -> bool:
        """Is it all there already? Marks the destination as ours when it is empty."""
        job = json.dumps({"uid": self._row.uid, "version": self._snapshot.version}, sort_keys=True).encode()

        def claim() -> tuple[bytes, bool]:
            found = self._archive.get(f"{self._to}/{JOB}")
            if found is None:
                self._archive.put(f"{self._to}/{JOB}", job)
            return found or job, self._archive.get(f"{self._to}/{MANIFEST}") is not None

        found, finished = await self._work(claim)
        if found != job:
            raise errors.ResourceExists(
                f"`{self._to}` holds the export of another table or version",
                field="destination",
                hint="choose another destination",
            )
        return finished

    async def _part(self, name: str, span: Sequence[Span], schema: pa.Schema) -> ArchivePart:
        receipt = f"{self._to}/{name}.json"

        def write() -> ArchivePart:
            if (before := self._archive.get(receipt)) is not None:
                return ArchivePart(**json.loads(before))
            written = self._archive.write_rows(f"{self._to}/{name}", self._rows(span, schema), schema)
            part = replace(written, name=written.name.removeprefix(f"{self._to}/"))  # the folder may be moved
            failpoint("storage.before_export_receipt")
            self._archive.put(receipt, json.dumps(asdict(part)).encode())
            return part

        return await self._work(write)

    def _rows(self, span: Iterable[Span], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        for piece in span:
            for _, batch in self._files.batches(piece.file, schema, piece.first, piece.last):
                yield batch

    def _manifest(self, rows: Sequence[ArchivePart], dead: Sequence[ArchivePart]) -> Manifest:
        head = self._snapshot
        return Manifest(
            table=self._row.name,
            uid=self._row.uid,
            version=head.version,
            time_us=head.time_us,
            definition=self._row.body,
            schema=head.schema,
            schema_id=head.schema_id,
            rows=tuple(rows),
            dead_letters=tuple(dead),
            writers=head.writers,
            event_time_high_us=head.event_time_high_us,
        )

    async def _work(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


@dataclass(frozen=True, slots=True)
class Span:
    """Rows [first, last) of a file."""

    file: DataFile
    first: int
    last: int


def ordered(files: Iterable[DataFile]) -> Sequence[DataFile]:
    """As readers see them, on any replica."""
    return sorted(files, key=lambda file: (file.modified_ms, file.path))


def spans(files: Iterable[DataFile], size: int = PART_ROWS) -> Iterator[Sequence[Span]]:
    """The files' rows in order, `size` of them at a time."""
    held: list[Span] = []
    room = size
    for file in files:
        first = 0
        while first < file.row_count:
            last = min(file.row_count, first + room)
            held.append(Span(file, first, last))
            room -= last - first
            first = last
            if not room:
                yield held
                held, room = [], size
    if held:
        yield held
