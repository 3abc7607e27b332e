"""Rows to stdout as they arrive: a table for people, CSV, JSON and Arrow for programs. Nothing is collected."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TextIO

import click
import pyarrow as pa

from millrace.cli.cells import json_column, text_column
from millrace.cli.terminal import colour, escaped, paint, width

FORMATS = ("table", "csv", "json", "arrow")
_SETTLE_ROWS = 500
"""So many rows decide how wide a table's columns are; later rows that are wider stick out."""
_CELL_MAX = 60


class RowWriter(Protocol):
    """Takes a schema once, then batches, then `end`. Raises BrokenPipeError when the reader has gone."""

    def begin(self, schema: pa.Schema) -> None: ...
    def write(self, batch: pa.RecordBatch) -> None: ...
    def end(self) -> None: ...


def writer_for(name: str) -> RowWriter:
    """The writer of a format of FORMATS, to stdout. Raises UsageError for Arrow on a terminal."""
    if name == "arrow":
        if sys.stdout.isatty():
            raise click.UsageError(
                "Arrow is binary and stdout is a terminal\nsend it to a file or a pipe: -o arrow > rows.arrow"
            )
        return ArrowWriter()
    makers: dict[str, Callable[[TextIO], RowWriter]] = {"csv": CsvWriter, "json": JsonWriter, "table": TableWriter}
    return makers[name](sys.stdout)


class ArrowWriter:
    """One Arrow IPC stream."""

    def __init__(self) -> None:
        self._writer: pa.ipc.RecordBatchStreamWriter | None = None

    def begin(self, schema: pa.Schema) -> None:
        self._writer = pa.ipc.new_stream(pa.PythonFile(sys.stdout.buffer, mode="w"), schema)

    def write(self, batch: pa.RecordBatch) -> None:
        assert self._writer is not None
        self._writer.write_batch(batch)
        sys.stdout.buffer.flush()

    def end(self) -> None:
        if self._writer is not None:
            self._writer.close()
        sys.stdout.buffer.flush()


class CsvWriter:
    """RFC 4180 with a header line. NULL is an empty field, an empty text is `""`."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def begin(self, schema: pa.Schema) -> None:
        self._out.write(",".join(map(_csv_field, schema.names)) + "\n")

    def write(self, batch: pa.RecordBatch) -> None:
        columns = [text_column(column) for column in batch.columns]
        self._out.write("".join(",".join(map(_csv_field, row)) + "\n" for row in zip(*columns, strict=True)))
        self._out.flush()

    def end(self) -> None:
        self._out.flush()


def _csv_field(value: str | None) -> str:
    if value is None:
        return ""
    if not value or any(char in value for char in ',"\r\n') or value != value.strip():
        return '"' + value.replace('"', '""') + '"'
    return value


class JsonWriter:
    """One JSON array, an object a line; it has no closing bracket when the rows broke off."""

    def __init__(self, out: TextIO) -> None:
        self._out, self._any = out, False
        self._names: Sequence[str] = ()

    def begin(self, schema: pa.Schema) -> None:
        self._names = schema.names
        self._out.write("[")

    def write(self, batch: pa.RecordBatch) -> None:
        columns = [json_column(column) for column in batch.columns]
        for row in zip(*columns, strict=True):
            text = json.dumps(dict(zip(self._names, row, strict=True)), ensure_ascii=False)
            self._out.write(f"{',' if self._any else ''}\n{text}")
            self._any = True
        self._out.flush()

    def end(self) -> None:
        self._out.write("\n]\n" if self._any else "]\n")
        self._out.flush()


class TableWriter:
    """Columns under each other. NULL is written out (dim on a terminal), texts that look like it or like nothing are quoted."""

    def __init__(self, out: TextIO) -> None:
        self._out, self._colour = out, colour(out)
        self._limit = _CELL_MAX if out.isatty() else 0
        self._held: list[list[str | None]] = []
        self._widths: list[int] | None = None
        self._schema = pa.schema([])

    def begin(self, schema: pa.Schema) -> None:
        self._schema = schema

    def write(self, batch: pa.RecordBatch) -> None:
        texts = (pa.types.is_string(column.type) for column in batch.columns)
        columns = [self._shown(text_column(column), text) for column, text in zip(batch.columns, texts, strict=True)]
        self._held += [list(row) for row in zip(*columns, strict=True)]
        if self._widths is not None or len(self._held) >= _SETTLE_ROWS:
            self._flush()

    def end(self) -> None:
        self._flush()

    def _shown(self, column: list[str | None], text: bool) -> list[str | None]:
        return [None if value is None else self._cell(value, text) for value in column]

    def _cell(self, value: str, text: bool) -> str:
        shown = escaped(value)
        if text and shown in ("", "NULL"):
            return f'"{shown}"'
        return shown if not self._limit or width(shown) <= self._limit else shown[: self._limit - 1] + "…"

    def _flush(self) -> None:
        if self._widths is None:
            self._widths = self._settle()
            names = [escaped(name) for name in self._schema.names]
            self._line([paint(self._pad(name, at), "bold", self._colour) for at, name in enumerate(names)])
            self._line(["─" * size for size in self._widths])
        for row in self._held:
            self._line([self._value(value, at) for at, value in enumerate(row)])
        self._held.clear()
        self._out.flush()

    def _settle(self) -> list[int]:
        heads = [width(escaped(name)) for name in self._schema.names]
        columns: Iterable[tuple[str | None, ...]] = zip(*self._held, strict=True) if self._held else ((),) * len(heads)
        return [
            max([head, *(4 if value is None else width(value) for value in column)])
            for head, column in zip(heads, columns, strict=True)
        ]

    def _value(self, value: str | None, at: int) -> str:
        padded = self._pad("NULL" if value is None else value, at)
        return paint(padded, "dim", self._colour) if value is None else padded

    def _pad(self, text: str, at: int) -> str:
        assert self._widths is not None
        space = " " * max(0, self._widths[at] - width(text))
        return space + text if _is_number(self._schema.field(at).type) else text + space

    def _line(self, parts: Sequence[str]) -> None:
        self._out.write("  ".join(parts).rstrip() + "\n")


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind) or types.is_duration(kind))
