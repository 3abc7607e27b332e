"""A table's YAML: columns by type name, rules by column, written short for people."""

from __future__ import annotations

import pyarrow as pa
import yaml

from millrace.arrow.names import parse_type
from millrace.errors import FieldInvalid, UnsupportedType
from millrace.pipeline.document import Problems, entries, items, known_entries, nearest, scalar
from millrace.pipeline.messages import fill
from millrace.storage.v1 import storage_pb2
from millrace.types.v1 import types_pb2
from millrace.wire.schema import field_to_proto, type_from_proto
from millrace.wire.values import value_to_proto

_KEYS = (
    *("columns", "event_time", "primary_key", "sequence_column", "native_lookup"),
    *("rules", "description", "retention"),
)
_RULES = ("minimum", "maximum", "allowed")


def read_table(name: str, node: yaml.Node, path: str, problems: Problems) -> storage_pb2.Table:
    """The Table of `node`: `columns` by type name (`string?` may be NULL), `event_time`, `primary_key`,
    `sequence_column`, `native_lookup`, `rules`, `description`, `retention`."""
    table = storage_pb2.Table(name=name)
    said = known_entries(node, path, _KEYS, problems)
    if "columns" in said:
        _read_columns(table, said["columns"][1], f"{path}.columns", problems)
    else:
        problems.add(node, f"{path}.columns", "missing: `columns: {name: type}`")
    columns = {field.name: field for field in table.schema.fields}
    if "event_time" in said:
        table.event_time_column = _column(said["event_time"][1], f"{path}.event_time", columns, problems)
    for index, item in enumerate(items(said["primary_key"][1], path, problems) if "primary_key" in said else ()):
        table.primary_key.append(_column(item, f"{path}.primary_key[{index}]", columns, problems))
    if "sequence_column" in said:
        table.sequence_column = _column(said["sequence_column"][1], f"{path}.sequence_column", columns, problems)
    if "native_lookup" in said:
        text = scalar(said["native_lookup"][1], f"{path}.native_lookup", problems) or ""
        if text not in ("true", "false"):
            problems.add(said["native_lookup"][1], f"{path}.native_lookup", "true or false")
        table.native_lookup = text == "true"
    if "description" in said:
        table.description = scalar(said["description"][1], f"{path}.description", problems) or ""
    if "rules" in said:
        _read_rules(table, said["rules"][1], f"{path}.rules", columns, problems)
    if "retention" in said:
        fill(table.retention, said["retention"][1], f"{path}.retention", problems)
        table.retention.SetInParent()
    return table


def _column(node: yaml.Node, path: str, columns: dict[str, types_pb2.Field], problems: Problems) -> str:
    name = scalar(node, path, problems) or ""
    if name and name not in columns:
        problems.add(node, path, f"no column `{name}`{nearest(name, columns)}")
    return name


def _read_columns(table: storage_pb2.Table, node: yaml.Node, path: str, problems: Problems) -> None:
    for name, (_, value) in entries(node, path, problems).items():
        text = scalar(value, f"{path}.{name}", problems)
        if text is None:
            continue
        try:
            kind, nullable = parse_type(text)
        except (UnsupportedType, FieldInvalid) as error:
            problems.add(value, f"{path}.{name}", error.message)
            continue
        table.schema.fields.append(field_to_proto(pa.field(name, kind, nullable=nullable)))


def _read_rules(
    table: storage_pb2.Table, node: yaml.Node, path: str, columns: dict[str, types_pb2.Field], problems: Problems
) -> None:
    for name, (key, value) in entries(node, path, problems).items():
        here = f"{path}.{name}"
        if name not in columns:
            problems.add(key, here, f"no column `{name}`{nearest(name, columns)}")
            continue
        rule = table.rules.add(column=name)
        for bound, (_, said) in known_entries(value, here, _RULES, problems).items():
            nodes = items(said, f"{here}.{bound}", problems) if bound == "allowed" else [said]
            for item in nodes:
                _read_bound(rule, bound, columns[name].type, item, f"{here}.{bound}", problems)


def _read_bound(
    rule: storage_pb2.ColumnRule, bound: str, kind: types_pb2.DataType, node: yaml.Node, path: str, problems: Problems
) -> None:
    text = scalar(node, path, problems)
    if text is None:
        return
    arrow = type_from_proto(kind)
    try:
        value = value_to_proto(pa.array([text]).cast(arrow)[0])
    except pa.ArrowException:
        problems.add(node, path, f"`{text}` is no {arrow}")
        return
    if bound == "allowed":
        rule.allowed.append(value)
    else:
        getattr(rule, bound).CopyFrom(value)
