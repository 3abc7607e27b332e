"""Reads one text file (CSV, JSON lines; plain or gzip) record by record from a place. Blocking: on a worker thread."""

from __future__ import annotations

import csv
import gzip
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa

from millrace.errors import SchemaMismatch, SourcePaused, SourceUnavailable
from svc_extract.adapters.connectors.files.listing import Sight
from svc_extract.adapters.connectors.files.options import FilesOptions, Format
from svc_extract.adapters.connectors.files.packed import PackedFile, PlainFile
from svc_extract.adapters.connectors.files.places import Place
from svc_extract.domain.parsing.blocks import LONGEST_BOM, Block, Encoding, block_of
from svc_extract.domain.parsing.columns import plan_for
from svc_extract.domain.parsing.csv_rows import CsvRows
from svc_extract.domain.parsing.json_rows import JsonRows
from svc_extract.domain.parsing.parsed import Parsed, letter
from svc_extract.domain.parsing.records import MAX_RECORD_BYTES, Dialect

FIRST_BLOCK_BYTES, LARGEST_BLOCK_BYTES = 256 << 10, 1 << 20
_PROBE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Step:
    """Records that were parsed; `nexts[i]`: the file's offset after record i, and `end` after all of them, blank lines included."""

    parsed: Parsed
    nexts: Sequence[int]
    end: int
    open_end: bool


RowParser = CsvRows | JsonRows


class TextFile:
    """An open file. `limit`: bytes that count now (plain files); None reads to its end (gzip). A context."""

    def __init__(self, sight: Sight, place: Place, options: FilesOptions, schema: pa.Schema) -> None:
        self.sight, self._options, self._schema = sight, options, schema
        self.packed = sight.path.name.lower().endswith(".gz")
        self._file = PackedFile(sight.path) if self.packed else PlainFile(sight.path)
        self._block_bytes = FIRST_BLOCK_BYTES
        self.encoding = options.encoding
        self._dialect = Dialect()
        self._rows: RowParser | None = None
        self.offset = place.offset
        self._open_end = place.open_end
        self.limit = None if self.packed else sight.size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    @property
    def at_end(self) -> bool:
        """True when everything up to the limit was read; for gzip, when the stream ended."""
        if self.limit is not None:
            return self.offset >= self.limit
        return not self._read(self.offset, 1)

    def begin(self) -> RowParser | None:
        """Reads encoding and header, so that `offset` is that of the first record; None when there is no header yet."""
        if self._rows is None:
            self._begin(final=True)
        return self._rows

    def steps(self, *, final: bool) -> Iterator[Step]:
        """Everything up to the limit in steps of whole records. `final`: an unterminated last record is read too.

        Raises SchemaMismatch (the header), SourcePaused (no text), SourceUnavailable (gzip that is not whole yet)."""
        if self._rows is None and not self._begin(final):
            return
        if self._open_end:
            self._check_went_on()
        while (step := self._step(final)) is not None:
            yield step

    def sample(self, size: int) -> bytes:
        """The whole lines among the first `size` bytes, as UTF-8. Raises as `steps`."""
        head = self._read(0, size)
        encoding = self._options.encoding.of_file(head[:LONGEST_BOM])
        self.encoding = encoding
        self._refuse_binary(head[:_PROBE_BYTES])
        text = head[encoding.bom :].decode(encoding.name, "replace")
        whole = text if len(head) < size else text[: text.rfind("\n") + 1]
        return whole.encode()

    # -- the first lines -----------------------------------------------------------------------------------------------
    def _begin(self, final: bool) -> bool:
        """Encoding and header. False while the header line is not whole."""
        head = self._read(0, _PROBE_BYTES)
        self.encoding = self._options.encoding.of_file(head[:LONGEST_BOM])
        self._refuse_binary(head)
        if self._options.format_of(self.sight.name) is Format.JSON_LINES:
            self._dialect = Dialect(quote="")
            self._rows = JsonRows(self._schema, self._options.naming)
            self.offset = max(self.offset, self.encoding.bom)
            return True
        return self._begin_csv(final)

    def _begin_csv(self, final: bool) -> bool:
        options = self._options
        plain = Dialect(options.delimiter, options.quote)
        names, start = options.columns, self.encoding.bom
        if not names:
            found = block_of(self._read(start, MAX_RECORD_BYTES), plain, self.encoding, final=final)
            if not len(found.records):
                return False
            names, start = _names(found.records[0], plain, self.sight.name), start + int(found.nexts[0])
        plan = plan_for(names, options.naming, self._schema, where=self.sight.name)
        self._dialect = Dialect(options.delimiter, options.quote, plan.width)
        self._rows = CsvRows(self._dialect, plan, options.nulls)
        self.offset = max(self.offset, start)
        return True

    def _refuse_binary(self, head: bytes) -> None:
        if self.encoding.unit == 1 and b"\0" in head:
            raise SourcePaused(
                f"`{self.sight.name}` is not a text file",
                field="files.path",
                hint="set `format`, or move it out of the glob",
                metadata={"cause": "NOT_TEXT"},
            )

    def _check_went_on(self) -> None:
        """The last record had no line break when it was read: what follows must begin with one."""
        unit = self.encoding.unit
        following = self._read(self.offset, 2 * unit).decode(self.encoding.name, "replace")
        if following and following[0] not in "\r\n":
            raise SourcePaused(
                f"the last line of `{self.sight.name}` was read before it was whole, and went on",
                field="files.path",
                hint="end files with a line break before they are read ONCE",
                metadata={"cause": "LINE_WENT_ON"},
            )
        self._open_end = False

    # -- records -------------------------------------------------------------------------------------------------------
    def _step(self, final: bool) -> Step | None:
        data, last = self._next_block()
        if not data:
            return None
        if final and last:
            data, limit = self._whole_tail(data)
        else:
            limit = len(data)
        block = block_of(data, self._dialect, self.encoding, final=final and last)
        if block.overlong:
            return self._skip(final)
        if not block.consumed:
            if last:
                return None
            self._block_bytes *= 2
            return self._step(final)
        self._block_bytes = min(LARGEST_BLOCK_BYTES, max(self._block_bytes, FIRST_BLOCK_BYTES) * 2)
        return self._parsed(block, data, limit)

    def _next_block(self) -> tuple[bytes, bool]:
        """The bytes that come next, and whether the limit is reached with them."""
        want = self._block_bytes
        if self.limit is not None:
            want = min(want, max(0, self.limit - self.offset))
        data = self._read(self.offset, want)
        return data, (self.offset + len(data) >= self.limit) if self.limit is not None else len(data) < want

    def _whole_tail(self, data: bytes) -> tuple[bytes, int]:
        """`data`, and the rest of its last record when the file grew meanwhile; how many bytes count."""
        if self.limit is None or data.endswith(_line_feed(self.encoding)):
            return data, len(data)
        more = self._read(self.offset + len(data), MAX_RECORD_BYTES)
        return data + more, len(data)

    def _parsed(self, block: Block, data: bytes, limit: int) -> Step:
        assert self._rows is not None
        count = len(block.records)
        while count and count > 1 and int(block.nexts[count - 2]) >= limit:
            count -= 1  # began behind the limit
        bad = {index: reason for index, reason in block.bad.items() if index < count}
        parsed = self._rows.parse(block.records[:count], bad, block.raws[:count])
        consumed = block.consumed if count == len(block.records) else int(block.nexts[count - 1])
        nexts = [self.offset + int(at) for at in block.nexts[:count]]
        self.offset += consumed
        open_end = consumed == len(data) and not data[:consumed].endswith(_line_feed(self.encoding))
        return Step(parsed, nexts, self.offset, open_end)

    def _skip(self, final: bool) -> Step | None:
        """A record that never ends: one dead letter, and on behind its line break. None while that is not there."""
        start, at = self.offset, self.offset
        feed = _line_feed(self.encoding)
        raw = self._read(start, 65 * 1024)
        while part := self._read(at, LARGEST_BLOCK_BYTES):
            found = part.find(feed)
            if found >= 0:
                at += found + len(feed)
                break
            at += len(part)
        else:
            if not final:
                return None
        self.offset = at
        empty = pa.RecordBatch.from_pylist([], schema=self._schema)
        return Step(Parsed(empty, (letter(0, "ROW_TOO_LARGE", "", raw),)), [at], at, False)

    def _read(self, offset: int, size: int) -> bytes:
        try:
            return self._file.read_at(offset, size)
        except EOFError as error:
            raise SourceUnavailable(f"`{self.sight.name}` is not whole yet: the gzip stream ends early") from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise SourcePaused(
                f"`{self.sight.name}` is damaged gzip", field="files.path", metadata={"cause": "FILE_DAMAGED"}
            ) from error
        except OSError as error:
            raise SourceUnavailable(f"`{self.sight.name}` cannot be read: {os.strerror(error.errno or 0)}") from error


def _line_feed(encoding: Encoding) -> bytes:
    return "\n".encode(encoding.name)


def _names(record: bytes, dialect: Dialect, where: str) -> tuple[str, ...]:
    try:
        text = record.decode()
        names = next(csv.reader([text], delimiter=dialect.delimiter, quotechar=dialect.quote, strict=True))
    except (UnicodeDecodeError, csv.Error, StopIteration) as error:
        raise SchemaMismatch(f"the header line of `{where}` cannot be read", field="files.csv") from error
    return tuple(names)


def open_text(sight: Sight, place: Place, options: FilesOptions, schema: pa.Schema) -> TextFile:
    """Raises SourceUnavailable when it cannot be opened, or is another file by now."""
    try:
        opened = TextFile(sight, place, options, schema)
    except OSError as error:
        raise SourceUnavailable(f"`{sight.name}` cannot be opened: {os.strerror(error.errno or 0)}") from error
    seen = Path(sight.path).stat()
    if (seen.st_dev, seen.st_ino) != sight.identity:
        opened.close()
        raise SourceUnavailable(f"`{sight.name}` was replaced while it was opened")
    return opened
