"""What a table is: columns, event time, primary key, rules. Made from a request, checked once, kept as JSON in the catalog."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa

from millrace import errors
from millrace.arrow.types import canonical_field, nesting
from svc_storage.domain.retention import NO_RETENTION, Retention, check_retention

NAME = r"[a-z][a-z0-9_]{0,62}"
_NAME = re.compile(NAME)
_TABLE = re.compile(rf"namespaces/({NAME})/tables/({NAME})")
DEAD_LETTERS = "$dead_letters"
INGESTED_AT = "_ingested_at"
_INGESTED_FIELD = pa.field(INGESTED_AT, pa.timestamp("us", "UTC"), nullable=True)
FIELD_ID = b"millrace.field_id"
SCHEMA_ID = b"millrace.schema_id"
MAX_COLUMNS = 2_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class ColumnRule:
    """Bounds are inclusive, values are Python's for the column's type; None = no bound, empty `allowed` = any."""

    minimum: Any = None
    maximum: Any = None
    allowed: tuple[Any, ...] = ()

    def in_type(self, kind: pa.DataType) -> ColumnRule:
        """The same bounds as values of another type of the column; one that the type cannot reach bounds nothing."""

        def of(value: Any) -> Any:
            try:
                return None if value is None else pa.scalar(value, kind).as_py()
            except (pa.ArrowInvalid, OverflowError):
                return None

        allowed = tuple(value for value in map(of, self.allowed) if value is not None)
        return ColumnRule(of(self.minimum), of(self.maximum), allowed)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableDefinition:
    """`schema` holds the clients' columns only, canonical, with ids and descriptions in the fields' metadata."""

    schema: pa.Schema
    schema_id: int = 1
    event_time_column: str = ""
    primary_key: tuple[str, ...] = ()
    rules: Mapping[str, ColumnRule] = field(default_factory=dict)
    description: str = ""
    sequence_column: str = ""
    native_lookup: bool = False
    retention: Retention = NO_RETENTION

    @property
    def stored_schema(self) -> pa.Schema:
        """With storage's own columns, as in the files."""
        return self.schema.append(_INGESTED_FIELD)

    def at(self, stored: pa.Schema, schema_id: int) -> TableDefinition:
        """With the columns of a version: the log is the truth about them, what was kept elsewhere may be older."""
        if schema_id == self.schema_id:
            return self
        columns = [
            column.with_type(_stored_type(canonical_field(column).type))
            for column in stored
            if not column.name.startswith("_")
        ]
        schema = pa.schema(columns, metadata={SCHEMA_ID: str(schema_id).encode()})
        rules = {
            name: rule.in_type(schema.field(name).type) for name, rule in self.rules.items() if name in schema.names
        }
        return replace(self, schema=schema, schema_id=schema_id, rules=rules)

    def to_json(self) -> str:
        rules = {
            name: {
                "min": _value_out(rule.minimum),
                "max": _value_out(rule.maximum),
                "allowed": [_value_out(value) for value in rule.allowed],
            }
            for name, rule in self.rules.items()
        }
        return json.dumps(
            {
                "schema": base64.b64encode(self.schema.serialize().to_pybytes()).decode(),
                "schema_id": self.schema_id,
                "event_time_column": self.event_time_column,
                "primary_key": list(self.primary_key),
                "rules": rules,
                "description": self.description,
                "sequence_column": self.sequence_column,
                "native_lookup": self.native_lookup,
                "retention": self.retention.out(),
            },
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str) -> TableDefinition:
        raw = json.loads(text)
        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(raw["schema"])))
        return cls(
            schema=schema,
            schema_id=raw["schema_id"],
            event_time_column=raw["event_time_column"],
            primary_key=tuple(raw["primary_key"]),
            rules={name: _rule_in(rule, schema.field(name).type) for name, rule in raw["rules"].items()},
            description=raw["description"],
            sequence_column=raw.get("sequence_column", ""),
            native_lookup=raw.get("native_lookup", False),
            retention=Retention.parse(raw.get("retention", {})),
        )


def table_name(name: str, *, at: str = "name") -> str:
    """A table's full name, checked; `T$dead_letters` is nobody's to create. Raises FieldInvalid."""
    if not _TABLE.fullmatch(name):
        raise errors.FieldInvalid(
            "a table's name is namespaces/{namespace}/tables/{table}, both [a-z][a-z0-9_]{0,62}", field=at
        )
    return name


def namespace(parent: str, *, at: str = "parent") -> str:
    """The namespace of `namespaces/{namespace}`; empty means default. Raises FieldInvalid."""
    if not parent:
        return "default"
    kind, _, name = parent.partition("/")
    if kind != "namespaces" or not _NAME.fullmatch(name):
        raise errors.FieldInvalid("a parent is namespaces/{namespace}", field=at)
    return name


def define(
    schema: pa.Schema,
    *,
    event_time_column: str = "",
    primary_key: tuple[str, ...] = (),
    rules: Mapping[str, ColumnRule] | None = None,
    description: str = "",
    sequence_column: str = "",
    native_lookup: bool = False,
    retention: Retention = NO_RETENTION,
) -> TableDefinition:
    """A definition that can be stored. Raises UnsupportedType, FieldInvalid naming the request's field."""
    if not len(schema):
        raise errors.FieldRequired("a table has at least one column", field="table.schema.fields")
    if len(schema) > MAX_COLUMNS:
        raise errors.FieldInvalid(f"a table has at most {MAX_COLUMNS} columns", field="table.schema.fields")
    columns = [column_of(column, index + 1, f"table.schema.fields[{index}]") for index, column in enumerate(schema)]
    names = [column.name for column in columns]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise errors.FieldInvalid(f"column `{min(doubled)}` comes twice", field="table.schema.fields")
    stored = pa.schema(columns, metadata={SCHEMA_ID: b"1"})
    definition = TableDefinition(
        schema=stored,
        event_time_column=event_time_column,
        primary_key=primary_key,
        rules=dict(rules or {}),
        description=description,
        sequence_column=sequence_column,
        native_lookup=native_lookup,
        retention=retention,
    )
    check_references(definition)
    return definition


def check_references(definition: TableDefinition) -> None:
    """Event time, key, rules and retention name columns of the right kind. Raises FieldInvalid."""
    check_retention(definition.retention, definition.event_time_column)
    schema = definition.schema
    if column := definition.event_time_column:
        if column not in schema.names or not pa.types.is_timestamp(schema.field(column).type):
            raise errors.FieldInvalid(
                "the event-time column is a TIMESTAMP column of the table", field="table.event_time_column"
            )
        if schema.field(column).type.tz is None:
            raise errors.FieldInvalid(
                "the event-time column needs a zone: a DATETIME is no instant", field="table.event_time_column"
            )
    for index, name in enumerate(definition.primary_key):
        if name not in schema.names or pa.types.is_nested(schema.field(name).type):
            raise errors.FieldInvalid(
                f"`{name}` is not a plain column of the table", field=f"table.primary_key[{index}]"
            )
    _check_sequence(definition)
    for index, (name, rule) in enumerate(definition.rules.items()):
        at = f"table.rules[{index}]"
        if name not in schema.names or pa.types.is_nested(schema.field(name).type):
            raise errors.FieldInvalid(f"`{name}` is not a plain column of the table", field=f"{at}.column")
        _check_rule(rule, schema.field(name).type, at)


def column_of(column: pa.Field, field_id: int, at: str) -> pa.Field:
    """As it is stored. `at` names the request's field. Raises FieldInvalid, UnsupportedType."""
    if not _NAME.fullmatch(column.name):
        own = column.name.startswith("_")
        why = "names that begin with `_` are storage's" if own else "a column's name matches [a-z][a-z0-9_]{0,62}"
        raise errors.FieldInvalid(why, field=f"{at}.name")
    metadata = {key: value for key, value in (column.metadata or {}).items() if not key.startswith(b"PARQUET:")}
    metadata[FIELD_ID] = str(field_id).encode()
    return pa.field(column.name, storable_type(column, at), column.nullable, metadata)


def storable_type(column: pa.Field, at: str) -> pa.DataType:
    """The type that a column's values have in the files. Raises UnsupportedType."""
    kind = canonical_field(column).type
    for inner in _plain_types(kind):
        if pa.types.is_time(inner) or pa.types.is_duration(inner):
            raise errors.UnsupportedType(
                f"column `{column.name}`: {inner} cannot be stored",
                field=f"{at}.type",
                hint="store an int64 of microseconds",
            )
    if nesting(kind) > 8:
        raise errors.UnsupportedType(f"column `{column.name}`: nested deeper than 8 levels", field=f"{at}.type")
    return _stored_type(kind)


def _plain_types(kind: pa.DataType) -> list[pa.DataType]:
    if not kind.num_fields:
        return [kind]
    return [inner for index in range(kind.num_fields) for inner in _plain_types(kind.field(index).type)]


def _stored_type(kind: pa.DataType) -> pa.DataType:
    """Instants in UTC; whatever stands inside a list, struct or map may be NULL (the contract looks at whole columns)."""
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", "UTC" if kind.tz else None)
    if pa.types.is_list(kind):
        return pa.list_(pa.field("item", _stored_type(kind.value_type), True))
    if pa.types.is_map(kind):
        return pa.map_(_stored_type(kind.key_type), pa.field("value", _stored_type(kind.item_type), True))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(inner.name, _stored_type(inner.type), True) for inner in kind.fields])
    return kind


def _check_sequence(definition: TableDefinition) -> None:
    if definition.native_lookup and not definition.primary_key:
        raise errors.FieldInvalid("a table without a primary key has no keys to look up", field="table.native_lookup")
    if not (name := definition.sequence_column):
        return
    kind = definition.schema.field(name).type if name in definition.schema.names else pa.null()
    tests = (pa.types.is_integer, pa.types.is_decimal, pa.types.is_date, pa.types.is_timestamp)
    if not any(test(kind) for test in tests):
        raise errors.FieldInvalid(
            "the sequence column is an integer, decimal, date or time column of the table",
            field="table.sequence_column",
        )
    if not definition.primary_key:
        raise errors.FieldInvalid("a sequence orders the rows of one primary key", field="table.sequence_column")


def _check_rule(rule: ColumnRule, kind: pa.DataType, at: str) -> None:
    if len(rule.allowed) > 1_000:
        raise errors.FieldInvalid("at most 1,000 allowed values", field=f"{at}.allowed")
    for name, value in (
        ("minimum", rule.minimum),
        ("maximum", rule.maximum),
        *(("allowed", value) for value in rule.allowed),
    ):
        if value is None:
            continue
        try:
            pa.scalar(value, kind)
        except (
            pa.ArrowInvalid,
            pa.ArrowTypeError,
            pa.ArrowNotImplementedError,
            OverflowError,
            ValueError,
            TypeError,
        ) as error:
            raise errors.FieldInvalid(f"the value is not of the column's type {kind}", field=f"{at}.{name}") from error
    if rule.minimum is not None and rule.maximum is not None and rule.minimum > rule.maximum:
        raise errors.FieldInvalid("minimum is above maximum", field=f"{at}.minimum")


def _value_out(value: Any) -> Any:
    if isinstance(value, datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=UTC)
        return (aware - _EPOCH) // timedelta(microseconds=1)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value


def _rule_in(raw: Mapping[str, Any], kind: pa.DataType) -> ColumnRule:
    allowed = tuple(_value_in(value, kind) for value in raw["allowed"])
    return ColumnRule(_value_in(raw["min"], kind), _value_in(raw["max"], kind), allowed)


def _value_in(value: Any, kind: pa.DataType) -> Any:
    if value is None:
        return None
    if pa.types.is_timestamp(kind):
        instant = _EPOCH + timedelta(microseconds=value)
        return instant if kind.tz else instant.replace(tzinfo=None)
    if pa.types.is_date(kind):
        return date.fromisoformat(value)
    if pa.types.is_decimal(kind):
        return Decimal(value)
    if pa.types.is_binary(kind):
        return base64.b64decode(value)
    return value
