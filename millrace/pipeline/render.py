"""A contract's message as the YAML that `apply` reads: what `get -o yaml` prints, `apply` takes without a difference."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import yaml
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from millrace.arrow.names import name_of
from millrace.extract.v1 import extract_pb2
from millrace.pipeline.messages import Field, key_of, short_names
from millrace.storage.v1 import storage_pb2
from millrace.transform.v1 import transform_pb2
from millrace.types.v1 import types_pb2
from millrace.viz.v1 import viz_pb2
from millrace.wire.schema import schema_from_proto
from millrace.wire.values import python_from_proto

API_VERSION = "millrace.dev/v1"
_UNITS = ((86_400_000_000, "d"), (3_600_000_000, "h"), (60_000_000, "m"), (1_000_000, "s"), (1_000, "ms"), (1, "us"))


class _Dumper(yaml.SafeDumper):
    """Block style, long texts as blocks."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def to_yaml(
    parts: Mapping[str, Mapping[str, object]],
    name: str,
    namespace: str = "default",
    *,
    kind: str = "Pipeline",
    title: str = "",
    description: str = "",
) -> str:
    """A pipeline file of `parts` ("tables", "sources", …, each by name); `kind` Parts when no pipeline is to hold them together."""
    said = {"name": name, "namespace": "" if namespace == "default" else namespace, "title": title}
    metadata = {key: value for key, value in {**said, "description": description}.items() if value}
    whole = {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": dict(parts)}
    return yaml.dump(whole, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def part_of(message: Message) -> tuple[str, str, object]:
    """(collection, short name, YAML value) of a Table, Source, Transform or Dashboard."""
    if isinstance(message, storage_pb2.Table):
        return "tables", _short(message.name), _table(message)
    for kind, collection in (
        (extract_pb2.Source, "sources"),
        (transform_pb2.Transform, "transforms"),
        (viz_pb2.Dashboard, "dashboards"),
    ):
        if isinstance(message, kind):
            return collection, _short(message.name), plain(message.spec)
    raise TypeError(f"{message.DESCRIPTOR.full_name} is no part of a pipeline")


def _short(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def plain(message: Message) -> dict[str, object]:
    """The fields that are set, as YAML spells them, in the order of the proto."""
    return {key_of(field): _field(field, value) for field, value in message.ListFields()}


def _field(field: Field, value: Any) -> object:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        inner = field.message_type.fields_by_name["value"]
        return {key: _single(inner, value[key]) for key in sorted(value)}
    if field.is_repeated:
        return [_single(field, item) for item in value]
    return _single(field, value)


def _single(field: Field, value: Any) -> object:
    if isinstance(value, Duration):
        return duration_text(value)
    if isinstance(value, Timestamp):
        return timestamp_text(value)
    if isinstance(value, Message):
        return plain(value)
    if field.enum_type is not None:
        return {number: name for name, number in short_names(field.enum_type).items()}.get(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return int(value)
    return value


def duration_text(value: Duration) -> str:
    """ "250ms", "1s", "2h": the largest unit that is exact."""
    micros = value.ToMicroseconds()
    size, unit = next((size, unit) for size, unit in _UNITS if micros % size == 0)
    return f"{micros // size}{unit}" if micros else "0s"


def timestamp_text(value: Timestamp) -> str:
    """ISO 8601 in UTC, exact to the microsecond."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=value.seconds, microseconds=value.nanos // 1000)
    return moment.isoformat().replace("+00:00", "Z")


def _table(table: storage_pb2.Table) -> dict[str, object]:
    schema: pa.Schema = schema_from_proto(table.schema)
    out: dict[str, object] = {}
    if table.description:
        out["description"] = table.description
    if table.event_time_column:
        out["event_time"] = table.event_time_column
    if table.primary_key:
        out["primary_key"] = list(table.primary_key)
    if table.sequence_column:
        out["sequence_column"] = table.sequence_column
    if table.native_lookup:
        out["native_lookup"] = True
    out["columns"] = {field.name: name_of(field.type, nullable=field.nullable) for field in schema}
    if table.rules:
        out["rules"] = {rule.column: _rule(rule) for rule in table.rules}
    if table.HasField("retention"):
        out["retention"] = plain(table.retention)
    return out


def _rule(rule: storage_pb2.ColumnRule) -> dict[str, object]:
    out: dict[str, object] = {}
    for bound in ("minimum", "maximum"):
        if rule.HasField(bound):
            out[bound] = _bound(getattr(rule, bound))
    if rule.allowed:
        out["allowed"] = [_bound(value) for value in rule.allowed]
    return out


def _bound(value: types_pb2.Value) -> object:
    python = python_from_proto(value)
    return python if isinstance(python, (int, float, bool, str)) else str(python)
