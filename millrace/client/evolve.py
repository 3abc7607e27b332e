"""What a writer wishes of its table's columns, against the columns that the table has: pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from millrace import errors
from millrace.arrow.types import canonical
from millrace.arrow.widening import widens
from millrace.storage.v1 import schema_pb2
from millrace.wire.schema import SCHEMA_ID, field_to_proto, type_to_proto


@dataclass(frozen=True, slots=True)
class ColumnWish:
    """Columns to add (nullable), to widen and to relax; those that are so already are no harm."""

    additions: tuple[pa.Field, ...] = ()
    widenings: Mapping[str, pa.DataType] = field(default_factory=dict)
    relaxations: tuple[str, ...] = ()


def missing(wish: ColumnWish, schema: pa.Schema) -> schema_pb2.SchemaChange | None:
    """What `schema`, as storage told it last, still lacks of the wish; None when nothing.

    Raises SchemaMismatch when it has a column of the wish with a type that is neither wider nor narrower."""
    additions: list[pa.Field] = []
    widenings = dict(wish.widenings)
    relaxations = list(wish.relaxations)
    for column in wish.additions:
        if column.name not in schema.names:
            additions.append(column)
            continue
        widenings.setdefault(column.name, column.type)
        relaxations.append(column.name)
    change = schema_pb2.SchemaChange(
        additions=[field_to_proto(column) for column in additions],
        widenings={name: type_to_proto(kind) for name, kind in widenings.items() if not _carried(schema, name, kind)},
        relaxations=dict.fromkeys(
            name for name in relaxations if name not in schema.names or not schema.field(name).nullable
        ),
        base_schema_id=int((schema.metadata or {}).get(SCHEMA_ID, b"1")),
    )
    return change if change.additions or change.widenings or change.relaxations else None


def unknown_columns(rows: pa.Schema, table: pa.Schema) -> tuple[pa.Field, ...]:
    """The columns of `rows` that `table` lacks, nullable, in the types they travel as. Those of no type (all NULL) are left out."""
    return tuple(
        pa.field(column.name, canonical(column.type, where=column.name), nullable=True)
        for column in rows
        if column.name not in table.names and not pa.types.is_null(column.type)
    )


def without_nothing(rows: pa.RecordBatch, table: pa.Schema) -> pa.RecordBatch:
    """`rows` without columns that the table lacks and that hold nothing but NULL of no type: absent means the same."""
    empty = [column.name for column in rows.schema if pa.types.is_null(column.type) and column.name not in table.names]
    return rows.drop_columns(empty) if empty else rows


def _carried(schema: pa.Schema, name: str, kind: pa.DataType) -> bool:
    if name not in schema.names:
        return False
    wished, present = canonical(kind, where=name), schema.field(name).type
    if widens(wished, present):
        return True
    if not widens(present, wished):
        raise errors.SchemaMismatch(
            f"column `{name}` is {present}, which is neither wider nor narrower than {wished}",
            field=name,
            hint="choose another name",
        )
    return False
