"""What storage looks up in the messages of others that it keeps: a reader's place, and which tables a spec names."""

from __future__ import annotations

import re
from collections.abc import Iterator

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

# Importing them puts their messages into the pool, from which an Any is unpacked.
from millrace.extract.v1 import extract_pb2
from millrace.transform.v1 import transform_pb2
from millrace.types.v1 import pipeline_pb2
from millrace.viz.v1 import dashboard_pb2
from svc_storage.domain.usage import ReaderPlace
from svc_storage.ports import Packed, Resource

KNOWN = (extract_pb2.DESCRIPTOR, transform_pb2.DESCRIPTOR, dashboard_pb2.DESCRIPTOR)
_TABLE_FIELDS = frozenset({"table", "tables", "output", "driving_table"})
_SQL_FIELDS = frozenset({"sql", "text"})


def reader_place(spec: Packed | None, status: Packed | None) -> ReaderPlace | None:
    """None when spec or status is another message: such a reader holds nothing back."""
    wish = _unpacked(spec)
    state = _unpacked(status)
    if not isinstance(wish, pipeline_pb2.ReaderSpec):
        return None
    version = state.version if isinstance(state, pipeline_pb2.ReaderStatus) else 0
    return ReaderPlace(wish.table_uid, version)


def spec_names(resource: Resource, table: str) -> bool:
    """By a field that holds a table's name, or by FROM or JOIN in SQL of the table's own namespace."""
    spec = _unpacked(resource.spec)
    if spec is None:
        return False
    short = table.rsplit("/", 1)[-1]
    in_sql = re.compile(rf'\b(?:from|join)\s+"?{re.escape(short)}"?(?![\w$])', re.IGNORECASE)
    same_namespace = table.startswith(f"namespaces/{resource.namespace}/")
    for field, text in _texts(spec):
        if field in _TABLE_FIELDS and (text == table or (same_namespace and text == short)):
            return True
        if field in _SQL_FIELDS and same_namespace and in_sql.search(text):
            return True
    return False


def _unpacked(packed: Packed | None) -> Message | None:
    if packed is None:
        return None
    try:
        found = descriptor_pool.Default().FindMessageTypeByName(packed.type_url.rsplit("/", 1)[-1])
        message: Message = message_factory.GetMessageClass(found)()
        message.ParseFromString(packed.value)
    except (KeyError, DecodeError):
        return None
    return message


def _texts(message: Message) -> Iterator[tuple[str, str]]:
    """(field name, value) of every string inside."""
    for field, value in message.ListFields():
        is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
        values = value.values() if is_map else value if field.is_repeated else (value,)
        for one in values:
            if isinstance(one, str):
                yield field.name, one
            elif isinstance(one, Message):
                yield from _texts(one)
