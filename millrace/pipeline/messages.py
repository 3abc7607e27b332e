"""YAML into a contract's message, field by field: the proto is the schema, so the file can say all that an RPC can."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, TypeAlias, TypeVar

import yaml
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from millrace.pipeline.document import Problems, entries, is_null, items, known_entries, nearest, scalar

M = TypeVar("M", bound=Message)
Field: TypeAlias = Any  # descriptors come in two classes, pure Python and upb, that share no base
Enum: TypeAlias = Any

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m|h|d)")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600, "d": 86400}
_TRUE, _FALSE = {"true", "yes", "on"}, {"false", "no", "off"}
_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32,
    FieldDescriptor.CPPTYPE_INT64,
    FieldDescriptor.CPPTYPE_UINT32,
    FieldDescriptor.CPPTYPE_UINT64,
}
_REALS = {FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT}


def key_of(field: Field) -> str:
    """How YAML spells a field: an explicit json_name (`from`), else the proto's own name."""
    words = field.name.split("_")
    automatic = words[0] + "".join(word.capitalize() for word in words[1:])
    return str(field.json_name if field.json_name != automatic else field.name)


def fill(message: M, node: yaml.Node, path: str, problems: Problems) -> M:
    """Sets the fields that `node` names; every mistake goes into `problems` with its place. Returns `message`."""
    fields = {key_of(field): field for field in message.DESCRIPTOR.fields}
    chosen: dict[str, str] = {}
    for name, (key, value) in known_entries(node, path, fields, problems).items():
        field, here = fields[name], f"{path}.{name}".lstrip(".")
        group = field.containing_oneof
        if group is not None and not group.name.startswith("_"):
            if other := chosen.get(group.name):
                problems.add(key, here, f"`{name}` and `{other}` exclude each other")
                continue
            chosen[group.name] = name
        if not is_null(value):
            _set_field(message, field, value, here, problems)
        elif field.message_type is not None and not field.is_repeated:
            getattr(message, field.name).SetInParent()
    return message


def _set_field(message: Message, field: Field, node: yaml.Node, path: str, problems: Problems) -> None:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        _fill_map(message, field, node, path, problems)
    elif field.is_repeated:
        for index, item in enumerate(items(node, path, problems)):
            _append(message, field, item, f"{path}[{index}]", problems)
    elif field.message_type is not None:
        _fill_message(getattr(message, field.name), node, path, problems)
    else:
        value = _scalar_value(field, node, path, problems)
        if value is not None:
            _assign(lambda: setattr(message, field.name, value), node, path, problems)


def _append(message: Message, field: Field, node: yaml.Node, path: str, problems: Problems) -> None:
    target = getattr(message, field.name)
    if field.message_type is not None:
        _fill_message(target.add(), node, path, problems)
    else:
        value = _scalar_value(field, node, path, problems)
        if value is not None:
            _assign(lambda: target.append(value), node, path, problems)


def _fill_map(message: Message, field: Field, node: yaml.Node, path: str, problems: Problems) -> None:
    value_field = field.message_type.fields_by_name["value"]
    target = getattr(message, field.name)
    for name, (_, value) in entries(node, path, problems).items():
        here = f"{path}.{name}"
        if value_field.message_type is not None:
            _fill_message(target[name], value, here, problems)
        elif (single := _scalar_value(value_field, value, here, problems)) is not None:
            target[name] = single


def _fill_message(target: Message, node: yaml.Node, path: str, problems: Problems) -> None:
    if isinstance(target, Duration):
        _fill_duration(target, node, path, problems)
    elif isinstance(target, Timestamp):
        _fill_timestamp(target, node, path, problems)
    else:
        target.SetInParent()
        fill(target, node, path, problems)


def _fill_duration(target: Duration, node: yaml.Node, path: str, problems: Problems) -> None:
    text = scalar(node, path, problems)
    if text is None:
        return
    match = _DURATION.fullmatch(text)
    if match is None:
        problems.add(node, path, f"`{text}` is no duration: write 250ms, 1s, 5m, 2h or 1d")
        return
    target.FromMicroseconds(round(float(match[1]) * _SECONDS[match[2]] * 1e6))


def _fill_timestamp(target: Timestamp, node: yaml.Node, path: str, problems: Problems) -> None:
    text = scalar(node, path, problems)
    if text is None:
        return
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        problems.add(node, path, f"`{text}` is no time: write 2013-07-08T06:00:00-04:00")
        return
    if moment.tzinfo is None:
        problems.add(node, path, f"`{text}` has no offset from UTC: append Z or -04:00")
        return
    target.FromDatetime(moment.astimezone(UTC))


def _scalar_value(
    field: Field, node: yaml.Node, path: str, problems: Problems
) -> str | int | float | bool | bytes | None:
    text = scalar(node, path, problems)
    if text is None:
        return None
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return _enum_value(field.enum_type, text, node, path, problems)
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        if text.lower() in _TRUE | _FALSE:
            return text.lower() in _TRUE
        problems.add(node, path, f"`{text}` is neither true nor false")
        return None
    if kind in _INTEGERS | _REALS:
        try:
            return int(text, 0) if kind in _INTEGERS else float(text)
        except ValueError:
            problems.add(node, path, f"`{text}` is no {'whole ' if kind in _INTEGERS else ''}number")
            return None
    return text.encode() if field.type == FieldDescriptor.TYPE_BYTES else text


def short_names(enum: Enum) -> dict[str, int]:
    """An enum's numbers by the names that YAML uses: without the prefix, in small letters; the unspecified value has none."""
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum.name).upper() + "_"
    return {value.name.removeprefix(prefix).lower(): value.number for value in enum.values if value.number}


def _enum_value(enum: Enum, text: str, node: yaml.Node, path: str, problems: Problems) -> int | None:
    short = short_names(enum)
    number = short.get(text.lower())
    if number is None:
        problems.add(node, path, f"`{text}` is not one of the values{nearest(text.lower(), short)}")
    return number


def _assign(put: object, node: yaml.Node, path: str, problems: Problems) -> None:
    assert callable(put)
    try:
        put()
    except (ValueError, TypeError) as error:
        problems.add(node, path, f"out of range: {error}")
