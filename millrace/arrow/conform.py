"""Brings rows into a table's schema: by name, exactly, or not at all."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from millrace.arrow.types import canonical, cast_exactly, check_values
from millrace.errors import SchemaMismatch


def conform(rows: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """`rows` with exactly the columns and types of `schema`, in its order; the same object when they have them already.

    A missing nullable column becomes NULL. Numbers change width or kind where every value stays exact; text never becomes a
    number, an instant never a wall-clock time. Raises SchemaMismatch (an extra, doubled or missing column, another kind),
    UnsupportedType, ValueNotRepresentable; NULL in a NOT NULL column is left for the table's contract to judge."""
    _check_names(rows.schema.names, schema)
    columns = [_column(rows, field) for field in schema]
    return rows if rows.schema.equals(schema) else pa.RecordBatch.from_arrays(columns, schema=schema)


def _check_names(names: Sequence[str], schema: pa.Schema) -> None:
    known = set(schema.names)
    extra = sorted(set(names) - known)
    if extra:
        shown = ", ".join(f"`{name}`" for name in extra[:20])
        raise SchemaMismatch(
            f"the table has no column {shown}", field=extra[0], hint="drop it, or add it to the table first"
        )
    if len(set(names)) != len(names):
        twice = next(name for name in names if list(names).count(name) > 1)
        raise SchemaMismatch(f"column `{twice}` is there twice", field=twice)
    for field in schema:
        if not field.nullable and field.name not in names:
            raise SchemaMismatch(f"column `{field.name}` is missing and may not be NULL", field=field.name)


def _column(rows: pa.RecordBatch, field: pa.Field) -> pa.Array:
    if field.name not in rows.schema.names:
        return pa.nulls(rows.num_rows, field.type)
    array = rows.column(field.name)
    if pa.types.is_null(array.type):
        return pa.nulls(rows.num_rows, field.type)
    plain = cast_exactly(array, canonical(array.type, where=field.name), where=field.name)
    if plain.type != field.type:
        _check_kind(plain.type, field)
        plain = cast_exactly(plain, field.type, where=field.name)
    check_values(plain, where=field.name)
    return plain


def _check_kind(given: pa.DataType, field: pa.Field) -> None:
    if kind_of(given) != kind_of(field.type):
        raise SchemaMismatch(
            f"column `{field.name}` is {field.type}, the rows have {given}",
            field=field.name,
            hint="cast it before sending",
        )


def kind_of(kind: pa.DataType) -> str:
    """What a value is, without its width: "number", "timestamp", "datetime", "list", ... Types of one kind convert where exact."""
    types = pa.types
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return "number"
    if types.is_timestamp(kind):
        return "timestamp" if kind.tz else "datetime"
    if types.is_list(kind):
        return f"list<{kind_of(kind.value_type)}>"
    if types.is_map(kind):
        return f"map<{kind_of(kind.key_type)}, {kind_of(kind.item_type)}>"
    if types.is_struct(kind):
        return f"struct<{', '.join(f'{child.name}: {kind_of(child.type)}' for child in kind.fields)}>"
    return str(kind)
