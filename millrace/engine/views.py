"""Views over the files of a version: explicit columns, so that a new column is not dropped and a missing one gives NULL."""

from __future__ import annotations

import pyarrow as pa

from millrace.engine.names import TableRef
from millrace.engine.pinned import PinnedTable
from millrace.errors import UnsupportedType

_FIXED = {
    pa.bool_(): "BOOLEAN",
    pa.int8(): "TINYINT",
    pa.int16(): "SMALLINT",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.uint8(): "UTINYINT",
    pa.uint16(): "USMALLINT",
    pa.uint32(): "UINTEGER",
    pa.uint64(): "UBIGINT",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
    pa.string(): "VARCHAR",
    pa.large_string(): "VARCHAR",
    pa.binary(): "BLOB",
    pa.large_binary(): "BLOB",
    pa.date32(): "DATE",
    pa.time64("us"): "TIME",
    pa.duration("us"): "INTERVAL",
}


def quote(name: str) -> str:
    """`name` as an identifier."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """`value` as a string literal."""
    return "'" + value.replace("'", "''") + "'"


def duckdb_type(kind: pa.DataType) -> str:
    """DuckDB's name of a canonical Arrow type. Raises UnsupportedType."""
    types = pa.types
    if name := _FIXED.get(kind):
        return name
    if types.is_timestamp(kind):
        return "TIMESTAMPTZ" if kind.tz else "TIMESTAMP"
    if types.is_decimal(kind):
        return f"DECIMAL({kind.precision},{kind.scale})"
    if types.is_map(kind):
        return f"MAP({duckdb_type(kind.key_type)}, {duckdb_type(kind.item_type)})"
    if types.is_list(kind) or types.is_large_list(kind):
        return f"{duckdb_type(kind.value_type)}[]"
    if types.is_struct(kind):
        fields = ", ".join(f"{quote(child.name)} {duckdb_type(child.type)}" for child in kind.fields)
        return f"STRUCT({fields})"
    raise UnsupportedType(f"{kind} has no place in SQL")


def create_view(ref: TableRef, table: PinnedTable) -> str:
    """The statement that makes `ref` mean `table`'s rows."""
    name = f"memory.{quote(ref.schema or 'main')}.{quote(ref.name)}"
    return f"CREATE VIEW {name} AS {select_rows(table)}"


def select_rows(table: PinnedTable) -> str:
    """A SELECT of `table`'s columns over its files, or over nothing when there are none."""
    if not table.files:
        columns = ", ".join(f"CAST(NULL AS {duckdb_type(f.type)}) AS {quote(f.name)}" for f in table.schema)
        return f"SELECT {columns} WHERE false"
    columns = ", ".join(quote(name) for name in table.schema.names)
    return f"SELECT {columns} FROM read_parquet({file_list(table.files)}, schema = MAP {{{_columns(table.schema)}}})"


def file_list(files: tuple[str, ...]) -> str:
    """Paths as a DuckDB list, read as they are: characters that mean a pattern are bracketed."""
    return "[" + ", ".join(text(_without_patterns(path)) for path in files) + "]"


def _columns(schema: pa.Schema) -> str:
    return ", ".join(
        f"{text(field.name)}: {{name: {text(field.name)}, type: {text(duckdb_type(field.type))}, default_value: NULL}}"
        for field in schema
    )


def _without_patterns(path: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in path)
