"""A file's records by their place and event time, so that they can be read in the order of time. Blocking: on a worker thread.

Text stays on disk: what is kept per record is where it lies and when it happened (24 bytes). Gzip and Parquet are held in memory.
"""

from __future__ import annotations

import gzip
import hashlib
import mmap
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from millrace.errors import FieldInvalid, SchemaMismatch, SourcePaused, SourceUnavailable
from svc_extract.adapters.connectors.files.listing import Roots, Sight
from svc_extract.adapters.connectors.files.options import FilesOptions, Format
from svc_extract.adapters.connectors.files.places import Place
from svc_extract.adapters.connectors.files.text import RowParser, TextFile, open_text
from svc_extract.domain.parsing.arrow_rows import rows_of
from svc_extract.domain.parsing.columns import Naming, plan_for
from svc_extract.domain.parsing.parsed import Parsed

MAX_UNPACKED_BYTES = 512 << 20
_NO_TIME = np.iinfo(np.int64).min
_LASTING = {"UNPARSEABLE", "ROW_TOO_LARGE"}
"""Reasons that depend on what stood around a record in its file: they are kept from the first pass."""


class Records(Protocol):
    """All records of a file, in the file's order. `times`: µs, those without one filled with the one before."""

    times: np.ndarray

    def parse(self, ids: Sequence[int]) -> Parsed:
        """These records, in this order."""
        ...


@dataclass(frozen=True, slots=True)
class Tape:
    """`order`: record ids by time, equal times in the file's order; `times`: theirs. `fingerprint`: of the file's content."""

    records: Records
    order: np.ndarray
    times: np.ndarray
    fingerprint: str

    def __len__(self) -> int:
        return len(self.order)


def load(roots: Roots, options: FilesOptions, schema: pa.Schema, time_column: str) -> Tape:
    """Reads the file once. Raises SourceUnavailable (no file yet), FieldInvalid (several), SchemaMismatch, SourcePaused."""
    sight = the_file(roots, options)
    if options.format_of(sight.name) is Format.PARQUET:
        records: Records = _ParquetRecords.read(sight, options, schema, time_column)
    else:
        records = _TextRecords.read(sight, options, schema, time_column)
    order = np.argsort(records.times, kind="stable")
    return Tape(records, order, records.times[order], _fingerprint(sight))


def the_file(roots: Roots, options: FilesOptions) -> Sight:
    sights = roots.sights(options.path)
    if not sights:
        raise SourceUnavailable("no file matches yet", field="replay.files.path")
    if len(sights) > 1:
        raise FieldInvalid(f"{len(sights)} files match; a replay plays one", field="replay.files.path")
    return sights[0]


def _fingerprint(sight: Sight) -> str:
    found = hashlib.blake2b(digest_size=8)
    with sight.path.open("rb") as file:
        while part := file.read(1 << 20):
            found.update(part)
    return found.hexdigest()


def _filled(times: np.ndarray) -> np.ndarray:
    """Records without a time take the one before; at the very beginning, the first there is."""
    known = times != _NO_TIME
    if not known.any():
        return np.zeros(len(times), np.int64)
    last = np.maximum.accumulate(np.where(known, np.arange(len(times)), -1))
    last[last < 0] = int(np.argmax(known))
    return times[last]


def _micros(column: pa.Array) -> np.ndarray:
    numbers = column.cast(pa.timestamp("us", column.type.tz)).cast(pa.int64())
    return np.asarray(numbers.fill_null(_NO_TIME).to_numpy(zero_copy_only=False), np.int64)


@dataclass(slots=True)
class _TextRecords:
    data: mmap.mmap | bytes
    starts: np.ndarray
    ends: np.ndarray
    times: np.ndarray
    bad: dict[int, str]
    parser: RowParser
    encoding: str

    @classmethod
    def read(cls, sight: Sight, options: FilesOptions, schema: pa.Schema, time_column: str) -> _TextRecords:
        place = Place(sight.device, sight.inode)
        only_time = pa.schema([schema.field(time_column).with_nullable(True)])
        wide = replace(options, naming=Naming(options.naming.rename, True))
        scan = _Scan()
        with open_text(sight, place, options, schema) as whole:
            parser = whole.begin()
        with open_text(sight, place, wide, only_time) as file:
            first = file.begin() and file.offset
            for step in file.steps(final=True):
                scan.add(step.parsed, step.nexts)
            data = _bytes_of(file, sight)
            encoding = file.encoding.name
        ends = np.array(scan.ends, np.int64)
        starts = np.concatenate([[first], ends[:-1]]).astype(np.int64) if len(ends) else ends
        times = np.concatenate(scan.times) if scan.times else np.empty(0, np.int64)
        assert parser is not None or not len(ends)
        return cls(data, starts, ends, _filled(times), scan.bad, parser, encoding)  # type: ignore[arg-type]

    def parse(self, ids: Sequence[int]) -> Parsed:
        raws = [bytes(self.data[self.starts[one] : self.ends[one]]) for one in ids]
        bad = {index: self.bad[one] for index, one in enumerate(ids) if one in self.bad}
        if self.encoding == "utf-8":
            records = [raw.strip(b"\r\n") for raw in raws]
            return self.parser.parse(records, bad, records)
        records = []
        for index, raw in enumerate(raws):
            try:
                records.append(raw.decode(self.encoding).strip("\r\n").encode())
            except UnicodeError:
                records.append(raw)
                bad.setdefault(index, "ENCODING")
        return self.parser.parse(records, bad, raws)


@dataclass(slots=True)
class _Scan:
    """What the first pass finds: where records end, their times, and which are bad for good."""

    ends: list[int] = field(default_factory=list)
    times: list[np.ndarray] = field(default_factory=list)
    bad: dict[int, str] = field(default_factory=dict)

    def add(self, parsed: Parsed, nexts: Sequence[int]) -> None:
        first = len(self.ends)
        times = np.full(parsed.records, _NO_TIME, np.int64)
        good = np.ones(parsed.records, np.bool_)
        for one in parsed.letters:
            good[one.row_index] = False
            if one.reason in _LASTING:
                self.bad[first + one.row_index] = one.reason
        times[good] = _micros(parsed.rows.column(0))
        self.ends.extend(nexts)
        self.times.append(times)


def _bytes_of(file: TextFile, sight: Sight) -> mmap.mmap | bytes:
    if not file.packed:
        with sight.path.open("rb") as plain:
            return mmap.mmap(plain.fileno(), 0, access=mmap.ACCESS_READ) if sight.size else b""
    with gzip.open(sight.path, "rb") as packed:
        data = packed.read(MAX_UNPACKED_BYTES + 1)
    if len(data) > MAX_UNPACKED_BYTES:
        raise SourcePaused(
            f"`{sight.name}` is larger than {MAX_UNPACKED_BYTES >> 20} MiB unpacked",
            field="replay.files.path",
            hint="unpack it, it is then read from disk",
            metadata={"cause": "FILE_TOO_LARGE"},
        )
    return data


@dataclass(slots=True)
class _ParquetRecords:
    table: pa.Table
    times: np.ndarray
    schema: pa.Schema

    @classmethod
    def read(cls, sight: Sight, options: FilesOptions, schema: pa.Schema, time_column: str) -> _ParquetRecords:
        try:
            table = pq.read_table(sight.path)
        except (pa.ArrowException, OSError) as error:
            raise SourceUnavailable(f"`{sight.name}` is no Parquet file, or not whole yet") from error
        plan = plan_for(table.schema.names, options.naming, schema, where=sight.name)
        names = [table.schema.names[index] for index in plan.sources.values()]
        table = table.select(names).rename_columns([schema.names[index] for index in plan.sources])
        column = table.column(time_column).combine_chunks()
        if not pa.types.is_timestamp(column.type):
            raise SchemaMismatch(f"`{time_column}` is no timestamp in `{sight.name}`", field="replay.time_column")
        array = column if isinstance(column, pa.Array) else pa.concat_arrays(column.chunks)
        return cls(table, _filled(_micros(array)), schema)

    def parse(self, ids: Sequence[int]) -> Parsed:
        batches = self.table.take(pa.array(ids, pa.int64())).combine_chunks().to_batches()
        return rows_of(batches[0], self.schema)
