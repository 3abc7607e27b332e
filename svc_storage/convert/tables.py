"""Tables and their versions, between proto and domain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pyarrow as pa

from millrace import errors
from millrace.storage.v1 import storage_pb2 as pb
from millrace.types.v1 import types_pb2
from millrace.wire.clock import timestamp_proto
from millrace.wire.schema import schema_from_proto, schema_to_proto
from millrace.wire.values import value_from_proto, value_to_proto
from svc_storage.convert.retention import retention_from, retention_to
from svc_storage.domain.definition import ColumnRule, TableDefinition, define
from svc_storage.domain.tables import TableState
from svc_storage.domain.versions import VersionEvent
from svc_storage.ports import CommitKind, WriterState

MAX_DEFINITION_BYTES = 512 * 1024
"""Of a table's definition as sent: it comes back whole in every GetTable and ListTables."""
MAX_ALLOWED = 1_000

_KINDS: Mapping[CommitKind, pb.VersionKind.ValueType] = {
    kind: pb.VersionKind.Value(f"VERSION_KIND_{kind.value}") for kind in CommitKind
}


def definition_from(table: pb.Table) -> TableDefinition:
    """Raises FieldInvalid, UnsupportedType, naming the request's field."""
    _check_size(table)
    schema = schema_from_proto(table.schema, where="table.schema")
    return define(
        schema,
        event_time_column=table.event_time_column,
        primary_key=tuple(table.primary_key),
        rules=_rules_from(table.rules, schema),
        description=table.description,
        sequence_column=table.sequence_column,
        native_lookup=table.native_lookup,
        retention=retention_from(table.retention),
    )


def change_from(table: pb.Table, current: TableDefinition) -> tuple[TableDefinition, pa.Schema | None]:
    """What an update wishes, and the columns it names (None: none). Raises FieldInvalid."""
    if not table.etag:
        raise errors.FieldRequired("`table.etag` is required", field="table.etag", hint="get the table first")
    _check_size(table)
    named = definition_from(table).schema if table.schema.fields else None
    changed = TableDefinition(
        schema=current.schema,
        event_time_column=table.event_time_column,
        primary_key=tuple(table.primary_key),
        rules=_rules_from(table.rules, named or current.schema),
        description=table.description,
        sequence_column=table.sequence_column,
        native_lookup=table.native_lookup,
        retention=retention_from(table.retention),
    )
    return changed, named


def _check_size(table: pb.Table) -> None:
    """Before anything is converted, which costs far more than looking."""
    if (size := table.ByteSize()) > MAX_DEFINITION_BYTES:
        raise errors.FieldInvalid(
            f"{size:,} bytes; a table's definition has at most {MAX_DEFINITION_BYTES:,}",
            field="table",
            hint="shorten descriptions, metadata, rules or the list of columns",
        )
    for index, rule in enumerate(table.rules):
        if len(rule.allowed) > MAX_ALLOWED:
            raise errors.FieldInvalid(f"at most {MAX_ALLOWED:,} allowed values", field=f"table.rules[{index}].allowed")
    if len(set(table.primary_key)) < len(table.primary_key):
        raise errors.FieldInvalid("a column comes twice", field="table.primary_key", hint="name each column once")


def table_to_proto(state: TableState) -> pb.Table:
    row, definition, head = state.row, state.definition, state.head
    return pb.Table(
        name=row.name,
        uid=row.uid,
        etag=row.etag,
        schema=schema_to_proto(definition.schema),
        event_time_column=definition.event_time_column,
        primary_key=definition.primary_key,
        rules=_rules_to_proto(definition),
        description=definition.description,
        version=head.version,
        row_count=head.row_count,
        size_bytes=head.size_bytes,
        file_count=len(head.files),
        dead_letter_count=sum(file.row_count for file in head.dead_letters),
        create_time=timestamp_proto(row.created_us),
        commit_time=timestamp_proto(head.time_us),
        event_time_high=None if head.event_time_high_us is None else timestamp_proto(head.event_time_high_us),
        owner=row.owner,
        sequence_column=definition.sequence_column,
        native_lookup=definition.native_lookup,
        retention=retention_to(definition.retention),
    )


def version_to_proto(event: VersionEvent, schema: pa.Schema | None = None) -> pb.TableVersion:
    """`schema`: the clients' columns as of the version, where they are to be told."""
    return pb.TableVersion(
        number=event.number,
        first=event.first,
        kind=_KINDS[event.kind],
        rows_added=event.rows_added,
        rows_removed=event.rows_removed,
        schema=None if schema is None else schema_to_proto(schema),
        positions={writer: position_to_proto(state) for writer, state in event.positions.items()},
        commit_time=timestamp_proto(event.commit_time_us),
        trace_context=event.trace_context,
        rows_dead_lettered=event.rows_dead_lettered,
    )


def position_to_proto(state: WriterState) -> types_pb2.Position:
    return position(state.positions, state.event_time_high_us)


def position(positions: Mapping[str, str], event_time_high_us: int | None) -> types_pb2.Position:
    high = None if event_time_high_us is None else timestamp_proto(event_time_high_us)
    return types_pb2.Position(positions=positions, event_time_high=high)


def _rules_from(rules: Iterable[pb.ColumnRule], schema: pa.Schema) -> dict[str, ColumnRule]:
    found: dict[str, ColumnRule] = {}
    for index, rule in enumerate(rules):
        at = f"table.rules[{index}]"
        if rule.column not in schema.names:
            raise errors.FieldInvalid(f"the table has no column `{rule.column[:80]}`", field=f"{at}.column")
        if rule.column in found:
            raise errors.FieldInvalid(f"column `{rule.column}` has two rules", field=f"{at}.column")
        kind = schema.field(rule.column).type
        found[rule.column] = ColumnRule(
            minimum=value_from_proto(rule.minimum, kind, where=f"{at}.minimum").as_py()
            if rule.HasField("minimum")
            else None,
            maximum=value_from_proto(rule.maximum, kind, where=f"{at}.maximum").as_py()
            if rule.HasField("maximum")
            else None,
            allowed=tuple(
                value_from_proto(value, kind, where=f"{at}.allowed[{number}]").as_py()
                for number, value in enumerate(rule.allowed)
            ),
        )
    return found


def _rules_to_proto(definition: TableDefinition) -> Iterable[pb.ColumnRule]:
    for name, rule in definition.rules.items():
        kind = definition.schema.field(name).type
        yield pb.ColumnRule(
            column=name,
            minimum=None if rule.minimum is None else value_to_proto(rule.minimum, kind),
            maximum=None if rule.maximum is None else value_to_proto(rule.maximum, kind),
            allowed=[value_to_proto(value, kind) for value in rule.allowed],
        )
