"""Rows of tables whose files nobody else can open, as local Parquet files on the shelf.

The newest version of a table is a chain of files: one read in full, then one for what each later version added, merged now and then. So a
new version costs what it added. A change that is no append, a lost file or another schema begins the chain anew. Versions that the
chain does not pass, and ranges, are files of their own.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from millrace.engine.shelf import Draft, Hold, Shelf
from millrace.engine.turns import Turns
from millrace.errors import ChangesNotAppendOnly, DiskFull, MillraceError, Unexpected, VersionExpired

PARALLEL = 4
"""Streams that a full read takes at a time."""
MERGED = 8
"""So many neighbours of one level become one file of the next."""
MERGE_BYTES = 256 << 20
"""A file of this size is merged no more."""
_ROW_GROUP = 1 << 17
_REMEMBERED = 1024

_log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be read: `splits` in order, as tokens. `rows`: how many there will be."""

    splits: Sequence[bytes]
    rows: int


class Source(Protocol):
    """One table of storage, as whoever asks for it. `key`: name and uid."""

    @property
    def key(self) -> str: ...

    async def plan(self, version: int, *, after: int | None, parallel: int) -> Plan:
        """Raises ChangesNotAppendOnly, VersionExpired and what else planning raises."""

    def rows(self, split: bytes) -> AsyncIterator[pa.RecordBatch]: ...


@dataclass(frozen=True, slots=True)
class Spooled:
    """Files that hold a version's rows, in order. `hold` keeps them there."""

    files: tuple[str, ...]
    rows: int
    size_bytes: int
    hold: Hold | None = None


@dataclass(frozen=True, slots=True)
class _Part:
    path: str
    rows: int
    size_bytes: int
    level: int = 0


@dataclass(slots=True)
class _Chain:
    schema: pa.Schema
    version: int
    parts: list[_Part]
    merging: asyncio.Task[None] | None = field(default=None)


class Spool:
    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._numbers = itertools.count(1)
        self._chains: dict[str, _Chain] = {}
        self._known: OrderedDict[tuple[str, int, int | None], Spooled] = OrderedDict()
        self._turns: Turns[str] = Turns()
        self.full_reads = 0
        self.streamed_rows = 0

    async def version(self, source: Source, version: int, schema: pa.Schema) -> Spooled:
        """The rows of a version. Raises what reading raises, DiskFull."""
        async with self._turns.of(source.key):
            if (found := self._held(source.key, version, None)) is not None:
                return found
            chain = self._chains.get(source.key)
            held = None if chain is None or chain.schema != schema else self._hold(chain)
            if chain is not None and held is not None and chain.version <= version:
                try:
                    return await self._extended(source, chain, held, version)
                except (ChangesNotAppendOnly, VersionExpired, DiskFull) as ended:
                    _log.info("%s is read anew: %s", source.key, ended.reason)
                    held.release()  # one file may fit where many do not
            spooled, parts = await self._read(source, version, None, schema, PARALLEL)
            self.full_reads += 1
            if chain is None or held is None or chain.version <= version:
                self._chains[source.key] = _Chain(schema, version, parts)
                while len(self._chains) > _REMEMBERED:
                    del self._chains[next(iter(self._chains))]
            return self._remember(source.key, version, None, spooled)

    async def added(self, source: Source, after: int, version: int, schema: pa.Schema) -> Spooled:
        """The rows that appends in (after, version] added. Raises ChangesNotAppendOnly, VersionExpired."""
        async with self._turns.of(f"{source.key} {after} {version}"):
            if (found := self._held(source.key, version, after)) is not None:
                return found
            spooled, _ = await self._read(source, version, after, schema, PARALLEL)
            return self._remember(source.key, version, after, spooled)

    async def close(self) -> None:
        """Ends merges under way."""
        tasks = [chain.merging for chain in self._chains.values() if chain.merging is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _hold(self, chain: _Chain) -> Hold | None:
        return self._shelf.hold(part.path for part in chain.parts)

    async def _extended(self, source: Source, chain: _Chain, held: Hold, version: int) -> Spooled:
        """`held`: the chain's files, while room is made for more."""
        if version > chain.version:
            _, parts = await self._read(source, version, chain.version, chain.schema, 1)
            chain.parts.extend(parts)
            chain.version = version
            self._merge_soon(source.key, chain)
        spooled = self._of(chain.parts)
        if spooled is None:
            raise Unexpected("local files went while they were held")
        return self._remember(source.key, version, None, spooled)

    def _of(self, parts: Sequence[_Part]) -> Spooled | None:
        files = tuple(part.path for part in parts)
        hold = self._shelf.hold(files)
        size = sum(part.size_bytes for part in parts)
        return None if hold is None else Spooled(files, sum(part.rows for part in parts), size, hold)

    def _held(self, key: str, version: int, after: int | None) -> Spooled | None:
        known = self._known.get((key, version, after))
        if known is None:
            return None
        hold = self._shelf.hold(known.files)
        return None if hold is None else Spooled(known.files, known.rows, known.size_bytes, hold)

    def _remember(self, key: str, version: int, after: int | None, found: Spooled) -> Spooled:
        self._known[(key, version, after)] = Spooled(found.files, found.rows, found.size_bytes)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return found

    async def _read(
        self, source: Source, version: int, after: int | None, schema: pa.Schema, parallel: int
    ) -> tuple[Spooled, list[_Part]]:
        """One file per split, several at a time. Files of a read that fails are held by nobody: none can be found."""
        planned = await source.plan(version, after=after, parallel=parallel)
        free = asyncio.Semaphore(parallel)

        async def one(split: bytes) -> tuple[_Part, Hold]:
            async with free:
                return await self._write(source.rows(split), schema)

        tasks = [asyncio.ensure_future(one(split)) for split in planned.splits]
        try:
            written = await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            for done in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(done, tuple):
                    self._shelf.drop(done[0].path)
            raise
        parts = [part for part, _ in written if part.rows]
        spooled = self._of(parts)
        assert spooled is not None
        self.streamed_rows += spooled.rows
        return spooled, parts

    async def _write(self, batches: AsyncIterator[pa.RecordBatch], schema: pa.Schema) -> tuple[_Part, Hold]:
        with self._shelf.draft(self._name()) as draft:
            writer = await asyncio.to_thread(pq.ParquetWriter, draft.path, schema, compression="lz4")
            rows = 0
            try:
                async with aclosing(batches) as given:  # type: ignore[type-var]
                    async for batch in given:
                        rows += batch.num_rows
                        await _finished(partial(_append, writer, batch, draft))
            finally:
                await _finished(writer.close)
            return self._kept(draft, rows)

    def _kept(self, draft: Draft, rows: int, level: int = 0) -> tuple[_Part, Hold]:
        size = draft.path.stat().st_size
        hold = self._shelf.keep(draft)
        return _Part(str(draft.path.with_suffix("")), rows, size, level), hold

    def _name(self) -> str:
        return f"rows-{next(self._numbers)}.parquet"

    def _merge_soon(self, key: str, chain: _Chain) -> None:
        if chain.merging is None and mergeable(chain.parts) is not None:
            chain.merging = asyncio.create_task(self._merge(chain), name=f"merge {key}")

    async def _merge(self, chain: _Chain) -> None:
        """Small neighbours into one file, until there are few; readers of the small ones keep them."""
        try:
            while (found := mergeable(chain.parts)) is not None:
                first, last = found
                old = chain.parts[first:last]
                spooled = self._of(old)
                if spooled is None:
                    return
                with self._shelf.draft(self._name()) as draft:
                    await _finished(partial(_concatenate, spooled.files, draft, chain.schema))
                    part, hold = self._kept(draft, spooled.rows, old[-1].level + 1)
                at = chain.parts.index(old[0])
                chain.parts[at : at + len(old)] = [part]
                del hold
        except (MillraceError, OSError, pa.ArrowException) as failed:
            _log.warning("local files were not merged: %s", type(failed).__name__)
        finally:
            chain.merging = None


def mergeable(parts: Sequence[_Part]) -> tuple[int, int] | None:
    """[first, last) of neighbours to make one: MERGED of one level, none of them large; the oldest such.

    The newest would leave a few older ones behind, between two of a higher level, where they never find enough neighbours."""
    first = 0
    while first < len(parts):
        last = first
        while last < len(parts) and parts[last].level == parts[first].level and last - first < MERGED:
            last += 1
        if last - first == MERGED and all(part.size_bytes < MERGE_BYTES for part in parts[first:last]):
            return first, last
        first = last
    return None


def _append(writer: pq.ParquetWriter, batch: pa.RecordBatch, draft: Draft) -> None:
    """Blocking. Room is made for the batch as it is in memory, the file is smaller."""
    writer.write_batch(batch)
    draft.reserve(draft.path.stat().st_size)


def _concatenate(files: Sequence[str], draft: Draft, schema: pa.Schema) -> None:
    """Blocking."""
    draft.reserve(sum(Path(name).stat().st_size for name in files))
    with pq.ParquetWriter(draft.path, schema, compression="lz4") as writer:
        for name in files:
            with pq.ParquetFile(name) as file:
                for batch in file.iter_batches(_ROW_GROUP):
                    writer.write_batch(batch.cast(schema) if batch.schema != schema else batch)


async def _finished(work: Callable[[], T]) -> T:
    """On a thread, to its end even when the caller is cancelled: what it writes to must not be closed under it."""
    future = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        if not future.cancelled():
            future.exception()
        raise
