"""How a table's columns may change while rows come in: add nullable, widen, relax NOT NULL. Pure functions over definitions.

Each step keeps every stored value and every batch in the older columns valid: a missing column is NULL, a narrower value is the same value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa

from millrace import errors
from millrace.arrow.widening import widens
from svc_storage.domain.definition import (
    FIELD_ID,
    MAX_COLUMNS,
    SCHEMA_ID,
    TableDefinition,
    check_references,
    column_of,
    storable_type,
)

MAX_SCHEMA_BYTES = 1 << 20
"""Of the columns with names, descriptions and metadata: they come back whole in every GetTable."""
_OLDER_NULL = "`{}`: older rows hold NULL there, so it is nullable"


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaChange:
    """`widenings`: new type by column. `base`: the schema_id that the change was made for."""

    base: int
    additions: tuple[pa.Field, ...] = ()
    widenings: Mapping[str, pa.DataType] = field(default_factory=dict)
    relaxations: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        return not (self.additions or self.widenings or self.relaxations)


def evolve(current: TableDefinition, change: SchemaChange, *, at: str = "schema_change") -> TableDefinition:
    """The table after the change, one schema_id on; `current` itself when all that is wished holds already. `at` names the request's field.

    Raises FieldRequired, FieldInvalid, UnsupportedType (what can never be), SchemaConflict (made for older columns: look again)."""
    if change.empty:
        raise errors.FieldRequired("add, widen or relax at least one column", field=at)
    if not 1 <= change.base <= current.schema_id:
        raise errors.FieldInvalid(f"the table is at schema_id {current.schema_id}", field=f"{at}.base_schema_id")
    if _holds(current.schema, change, exactly=change.base == current.schema_id):
        return current
    if change.base < current.schema_id:
        raise errors.SchemaConflict(
            f"the columns changed since schema_id {change.base}",
            field=f"{at}.base_schema_id",
            hint="open again, look at the schema, send what is still missing",
            metadata={"schema_id": str(current.schema_id)},
        )
    return _evolved(current, change, at)


def difference(current: TableDefinition, wished: pa.Schema, *, at: str = "table.schema") -> SchemaChange:
    """What makes `current`'s columns those of `wished`, which names them all. Raises FieldInvalid for what is no such change."""
    known = current.schema.names
    if [name for name in wished.names if name in known] != known or wished.names[: len(known)] != known:
        raise errors.FieldInvalid(
            "columns are not dropped, renamed or moved; new ones come last",
            field=f"{at}.fields",
            hint="get the table, change what it says",
        )
    pairs = [(mine, wished.field(mine.name)) for mine in current.schema]
    for index, column in enumerate(wished):
        _check_wish(current, column, f"{at}.fields[{index}]")
    return SchemaChange(
        base=current.schema_id,
        additions=tuple(wished.field(index) for index in range(len(known), len(wished))),
        widenings={mine.name: theirs.type for mine, theirs in pairs if not mine.type.equals(theirs.type)},
        relaxations=tuple(mine.name for mine, theirs in pairs if theirs.nullable and not mine.nullable),
    )


def _check_wish(current: TableDefinition, column: pa.Field, at: str) -> None:
    if column.name not in current.schema.names:
        if not column.nullable:
            raise errors.FieldInvalid(_OLDER_NULL.format(column.name), field=f"{at}.nullable")
        return
    mine = current.schema.field(column.name)
    if mine.nullable and not column.nullable:
        raise errors.FieldInvalid(f"`{column.name}` may hold NULL already", field=f"{at}.nullable")
    if column.nullable and not mine.nullable:
        _relaxed(current, {column.name: mine}, column.name, f"{at}.nullable")
    if not mine.type.equals(column.type):
        _widened({column.name: mine}, column.name, column.type, f"{at}.type")


def needs_rewrite(before: pa.Schema, after: pa.Schema) -> bool:
    """A column has another type: files of before hold it narrower."""
    return any(not column.type.equals(after.field(column.name).type) for column in before)


def reshape(rows: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Rows in a table's older columns as rows in its present ones."""
    if rows.schema.equals(schema):
        return rows
    columns = []
    for column in schema:
        index = rows.schema.get_field_index(column.name)
        found = pa.nulls(rows.num_rows, column.type) if index < 0 else rows.column(index)
        columns.append(found if found.type.equals(column.type) else found.cast(column.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _holds(schema: pa.Schema, change: SchemaChange, *, exactly: bool) -> bool:
    """`exactly`: whoever knows the present type and wishes a narrower one is mistaken; who does not know it is served by a wider one."""
    wanted = [(column.name, column.type) for column in change.additions] + list(change.widenings.items())
    nullable = [column.name for column in change.additions] + list(change.relaxations)
    return all(
        name in schema.names and _carries(schema.field(name).type, kind, exactly) for name, kind in wanted
    ) and all(name in schema.names and schema.field(name).nullable for name in nullable)


def _carries(present: pa.DataType, asked: pa.DataType, exactly: bool) -> bool:
    stored = storable_type(pa.field("v", asked), "type")
    return bool(stored.equals(present)) if exactly else widens(stored, present)


def _evolved(current: TableDefinition, change: SchemaChange, at: str) -> TableDefinition:
    columns = {column.name: column for column in current.schema}
    for name, kind in change.widenings.items():
        columns[name] = _widened(columns, name, kind, f"{at}.widenings.{name[:64]}")
    for index, name in enumerate(change.relaxations):
        columns[name] = _relaxed(current, columns, name, f"{at}.relaxations[{index}]")
    columns |= _added(current, change.additions, at)
    schema_id = current.schema_id + 1
    schema = pa.schema(list(columns.values()), metadata={SCHEMA_ID: str(schema_id).encode()})
    if schema.serialize().size > MAX_SCHEMA_BYTES:
        raise errors.FieldInvalid("all columns together are larger than 1 MiB", field=f"{at}.additions")
    rules = {name: rule.in_type(schema.field(name).type) for name, rule in current.rules.items()}
    new = replace(current, schema=schema, schema_id=schema_id, rules=rules)
    check_references(new)
    return new


def _widened(columns: Mapping[str, pa.Field], name: str, kind: pa.DataType, at: str) -> pa.Field:
    column = _existing(columns, name, at)
    wider = storable_type(column.with_type(kind), at)
    if not widens(column.type, wider):
        raise errors.FieldInvalid(
            f"`{name}` is {column.type}: not every value of it is one of {wider}",
            field=at,
            hint="widen to a type that holds all of them exactly, or add a column",
        )
    return column.with_type(wider)


def _relaxed(current: TableDefinition, columns: Mapping[str, pa.Field], name: str, at: str) -> pa.Field:
    column = _existing(columns, name, at)
    if name in current.primary_key:
        raise errors.FieldInvalid(f"`{name}` is of the primary key: it names a row", field=at)
    return column.with_nullable(True)


def _existing(columns: Mapping[str, pa.Field], name: str, at: str) -> pa.Field:
    if name not in columns:
        raise errors.FieldInvalid(f"the table has no column `{name[:80]}`", field=at)
    return columns[name]


def _added(current: TableDefinition, additions: Sequence[pa.Field], at: str) -> Mapping[str, pa.Field]:
    if len(current.schema) + len(additions) > MAX_COLUMNS:
        raise errors.FieldInvalid(f"a table has at most {MAX_COLUMNS:,} columns", field=f"{at}.additions")
    used = [int((column.metadata or {}).get(FIELD_ID, b"0")) for column in current.schema]
    first = max(*used, len(used), 0) + 1
    found: dict[str, pa.Field] = {}
    for index, wish in enumerate(additions):
        place = f"{at}.additions[{index}]"
        column = column_of(wish, first + index, place)
        if column.name in found or column.name in current.schema.names:
            raise errors.FieldInvalid(f"column `{column.name}` is there already", field=f"{place}.name")
        if not column.nullable:
            raise errors.FieldInvalid(_OLDER_NULL.format(column.name), field=f"{place}.nullable")
        found[column.name] = column
    return found
