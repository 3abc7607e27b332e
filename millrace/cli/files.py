"""A CSV, JSON lines or Parquet file as record batches, in the same order each time; types from its table, or inferred."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from millrace.arrow.types import canonical
from millrace.cli.failures import Failed, nearest

FORMATS = ("csv", "jsonl", "parquet")
_BY_SUFFIX = {
    ".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip
_SAMPLE_BYTES = 64 << 20
_BLOCK_BYTES = 4 << 20
_ROWS = 65_536


@dataclass(frozen=True, slots=True)
class Layout:
    """How to read the file. `delimiter` and `null` are for CSV: an unquoted `null` is NULL, a quoted one is text."""

    path: Path
    format: str
    delimiter: str = ","
    nulls: Sequence[str] = ("",)

    @classmethod
    def of(cls, path: Path, format: str | None, delimiter: str | None, nulls: Sequence[str]) -> Layout:
        """Raises Failed where the name does not say what is in it."""
        suffixes = [suffix.lower() for suffix in path.suffixes]
        plain = suffixes[:-1] if suffixes and suffixes[-1] in (".gz", ".zst", ".bz2") else suffixes
        suffix = plain[-1] if plain else ""
        kind = format or _BY_SUFFIX.get(suffix, "")
        if not kind:
            raise Failed(
                f"what is in {path.name} its name does not say",
                reason="FILE",
                hint="say --format csv, jsonl or parquet",
            )
        return cls(path, kind, delimiter or ("\t" if suffix == ".tsv" else ","), nulls or ("",))


def content_mark(path: Path) -> str:
    """A name for the file's content: the same bytes are the same load, wherever they lie."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def column_name(name: str) -> str:
    """As a table may call it: small letters, digits and _, beginning with a letter; "" when nothing is left."""
    plain = re.sub(r"[^a-z0-9_]", "_", name.strip().lower()).lstrip("_")
    return (plain if plain[:1].isalpha() or not plain else f"c_{plain}")[:63]


def infer(layout: Layout) -> pa.Schema:
    """The columns of a new table, from the first 64 MiB; all may be NULL. Raises Failed."""
    with _explained(layout):
        if layout.format == "parquet":
            found = pq.read_schema(layout.path)
        else:
            found = _infer_text(layout)
    fields = [pa.field(name, _kind(field), nullable=True) for field, name in zip(found, _names(found), strict=True)]
    return pa.schema(fields)


def _infer_text(layout: Layout) -> pa.Schema:
    with pa.input_stream(str(layout.path), compression="detect") as stream:
        data = stream.read(_SAMPLE_BYTES)
    if len(data) == _SAMPLE_BYTES:
        data = data[: data.rfind(b"\n") + 1]
    options = {"block_size": len(data) + 1}
    if layout.format == "csv":
        read = pa.csv.ReadOptions(**options)
        found = pa.csv.read_csv(io.BytesIO(data), read, _parse(layout), _convert(layout, None)).schema
        return _without_lost_digits(layout, data, read, found)
    return pa.json.read_json(io.BytesIO(data), pa.json.ReadOptions(**options)).schema


def _without_lost_digits(layout: Layout, data: bytes, read: Any, schema: pa.Schema) -> pa.Schema:
    """pyarrow takes whole numbers above 64 bits for floats; they are names of things: text."""
    floats = [field.name for field in schema if pa.types.is_floating(field.type)]
    if not floats:
        return schema
    convert = pa.csv.ConvertOptions(include_columns=floats, column_types=dict.fromkeys(floats, pa.string()))
    table = pa.csv.read_csv(io.BytesIO(data), read, _parse(layout), convert)
    for name in floats:
        if pc.any(pc.match_substring_regex(table[name], r"^\s*[-+]?\d{16,}\s*$")).as_py():
            schema = schema.set(schema.get_field_index(name), pa.field(name, pa.string()))
    return schema


def _kind(field: pa.Field) -> pa.DataType:
    """All NULL in the sample is text; what Millrace knows in another width or unit becomes that."""
    return pa.string() if pa.types.is_null(field.type) else canonical(field.type, where=field.name)


def _names(schema: pa.Schema) -> list[str]:
    names = [column_name(name) for name in schema.names]
    empty = [was for was, name in zip(schema.names, names, strict=True) if not name]
    double = sorted({name for name in names if names.count(name) > 1})
    if empty or double:
        what = f"a column is called `{empty[0]}`" if empty else f"two columns are called `{double[0]}`"
        raise Failed(what, reason="SCHEMA_MISMATCH", hint="give each column of the file a name of its own")
    return names


@dataclass(slots=True)
class Rows:
    """The file's batches in `schema`'s names and types (those columns that it has). `fraction`: how much was read, 0 to 1."""

    layout: Layout
    schema: pa.Schema
    fraction: float = 0.0

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Raises Failed where the file cannot be read as `schema`."""
        with _explained(self.layout):
            yield from self._parquet() if self.layout.format == "parquet" else self._text()

    def _parquet(self) -> Iterator[pa.RecordBatch]:
        with pq.ParquetFile(self.layout.path) as file:
            names = self._matched(file.schema_arrow)
            done, total = 0, file.metadata.num_rows
            for batch in file.iter_batches(_ROWS):
                done += batch.num_rows
                self.fraction = done / total
                yield batch.rename_columns(names)

    def _text(self) -> Iterator[pa.RecordBatch]:
        size = self.layout.path.stat().st_size or 1
        with self.layout.path.open("rb") as file:
            head = _header(self.layout)
            kinds = self._kinds(head)
            with self._reader(file, kinds) as reader:
                names = self._matched(reader.schema)
                for batch in reader:
                    self.fraction = min(1.0, file.tell() / size)
                    yield batch.rename_columns(names)

    def _reader(self, file: Any, kinds: Mapping[str, pa.DataType]) -> Any:
        gzipped = self.layout.path.suffix.lower() in (".gz", ".zst", ".bz2")
        stream = pa.CompressedInputStream(file, _codec(self.layout.path)) if gzipped else file
        if self.layout.format == "csv":
            options = pa.csv.ReadOptions(block_size=_BLOCK_BYTES)
            return pa.csv.open_csv(stream, options, _parse(self.layout), _convert(self.layout, kinds))
        schema = pa.schema(list(kinds.items()))
        parse = pa.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error")
        return pa.json.open_json(stream, pa.json.ReadOptions(block_size=_BLOCK_BYTES), parse)

    def _kinds(self, head: Sequence[str]) -> dict[str, pa.DataType]:
        """The file's own column names with the table's types."""
        known = {field.name: field.type for field in self.schema}
        return {name: known[column_name(name)] for name in head if column_name(name) in known}

    def _matched(self, found: pa.Schema) -> list[str]:
        names = _names(found)
        for was, name in zip(found.names, names, strict=True):
            if name not in self.schema.names:
                close = nearest(name, self.schema.names)
                hint = f"did you mean `{close}`? " if close else ""
                raise Failed(
                    f"the table has no column `{name}` for the file's `{was}`", reason="SCHEMA_MISMATCH",
                    hint=f"{hint}its columns are {', '.join(self.schema.names)}",
                )  # fmt: skip
        return names


def _header(layout: Layout) -> list[str]:
    """The column names of a text file's beginning."""
    with pa.input_stream(str(layout.path), compression="detect") as stream:
        data = stream.read(1 << 20)
    cut = data.rfind(b"\n") + 1 if len(data) == 1 << 20 else len(data)
    if layout.format == "csv":
        options = pa.csv.ReadOptions(block_size=max(cut, 1))
        return list(pa.csv.open_csv(io.BytesIO(data[:cut]), options, _parse(layout)).schema.names)
    return list(pa.json.read_json(io.BytesIO(data[:cut])).schema.names)


def _codec(path: Path) -> str:
    return {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}[path.suffix.lower()]


def _parse(layout: Layout) -> Any:
    return pa.csv.ParseOptions(delimiter=layout.delimiter, newlines_in_values=True)


def _convert(layout: Layout, kinds: Mapping[str, pa.DataType] | None) -> Any:
    return pa.csv.ConvertOptions(
        column_types=kinds, null_values=list(layout.nulls), strings_can_be_null=True, quoted_strings_can_be_null=False
    )


@contextlib.contextmanager
def _explained(layout: Layout) -> Iterator[None]:
    """pyarrow's errors as ours."""
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        first = str(error).splitlines()[0][:300]
        raise Failed(
            f"{layout.path.name}: {first}",
            reason="ROW_INVALID",
            hint="rows before it may be stored; mend the file, or read it by a `files` source, which keeps bad lines aside",
        ) from error
