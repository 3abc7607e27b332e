"""SchemaChange and its answer, between proto and domain."""

from __future__ import annotations

from millrace.errors import FieldInvalid
from millrace.storage.v1 import schema_pb2
from millrace.wire.schema import field_from_proto, schema_to_proto, type_from_proto
from svc_storage.domain.definition import MAX_COLUMNS
from svc_storage.domain.writing.appending import SchemaAccepted
from svc_storage.domain.writing.schema_change import SchemaChange

_MAX_BYTES = 512 * 1024


def change_from(change: schema_pb2.SchemaChange, *, at: str = "schema_change") -> SchemaChange:
    """Raises FieldInvalid, UnsupportedType, naming the request's field."""
    if change.ByteSize() > _MAX_BYTES or len(change.additions) > MAX_COLUMNS:
        raise FieldInvalid(f"a change is at most {_MAX_BYTES:,} bytes and {MAX_COLUMNS:,} columns", field=at)
    return SchemaChange(
        base=change.base_schema_id,
        additions=tuple(
            field_from_proto(column, where=f"{at}.additions[{index}]") for index, column in enumerate(change.additions)
        ),
        widenings={
            name: type_from_proto(kind, where=f"{at}.widenings.{name[:64]}")
            for name, kind in sorted(change.widenings.items())
        },
        relaxations=tuple(change.relaxations),
    )


def accepted(news: SchemaAccepted) -> schema_pb2.SchemaAccepted:
    return schema_pb2.SchemaAccepted(schema=schema_to_proto(news.schema))
