"""Parses the request and refuses it when a REQUIRED field is missing, from the descriptors alone (contracts.md rule 9).

Required means: with presence, it is set; repeated, it has an element; else it is not zero. A oneof all of whose members are
REQUIRED must have one set; its members are not checked one by one. A number that its enum does not have is refused, and so is a request of
more than `MAX_NESTED` messages: looking at each would hold up everyone else.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from google.api import field_behavior_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, OneofDescriptor

from millrace import errors
from millrace.server.access import access_of
from millrace.server.interceptors.call import Call, Proceed
from millrace.server.resource import check_resource

SKIPPED = frozenset({"millrace.types.v1.Rows", "google.protobuf.Any", "google.rpc.Status"})
"""Not entered: bulk rows are checked value by value where they are decoded; an Any has its own service's checks."""

MAX_NESTED = 10_000
"""Messages looked into in one request. A table of 2,000 columns and rules has 6,000, a predicate of 1,000 conditions 2,000."""

_REQUIRED = field_behavior_pb2.REQUIRED


class Fields:
    """A layer. Every message of a request stream is checked too, when the servicer reads it."""

    async def __call__(self, call: Call, proceed: Proceed) -> bytes | None:
        def check(message: Any) -> None:
            check_required(message)
            if generic:
                check_resource(call.metadata, message)

        generic = not access_of(
            call.method.full_name
        ).named  # the others: the auth layer compared what the RPC declares
        if call.requests is not None:
            call.requests.checks.append(check)
        else:
            check(call.message())
        return await proceed(call)


def check_required(message: Any) -> None:
    """Raises FieldRequired naming every missing field by its path (`open.writer_id`); FieldInvalid for an unknown enum value and beyond
    MAX_NESTED."""
    descriptor = getattr(message, "DESCRIPTOR", None)
    if not isinstance(descriptor, Descriptor) or not _matters(descriptor):
        return
    missing = list(_missing(message, descriptor, "", iter(range(MAX_NESTED))))
    if missing:
        first, *others = missing
        raise errors.FieldRequired(
            f"`{first}` is required", field=first, violations=tuple((path, f"`{path}` is required") for path in others)
        )


def _missing(message: Any, descriptor: Descriptor, prefix: str, budget: Iterator[int]) -> Iterator[str]:
    if next(budget, None) is None:
        raise errors.FieldInvalid(
            f"more than {MAX_NESTED:,} nested messages",
            field=prefix.removesuffix("."),
            hint="split the request, or send rows as Arrow",
        )
    plan = _plan(descriptor)
    for field in plan.enums:
        _check_enum(getattr(message, field.name), field, prefix)
    for oneof in plan.oneofs:
        if message.WhichOneof(oneof.name) is None:
            yield prefix + "|".join(field.name for field in oneof.fields)
    for field in plan.required:
        if not _is_set(message, field):
            yield prefix + field.name
    for field in plan.nested:
        yield from _missing_inside(message, field, prefix, budget)


def _check_enum(value: Any, field: FieldDescriptor, prefix: str) -> None:
    kind = field.enum_type
    assert kind is not None  # `_Plan.enums` holds such fields only
    for number in value if field.is_repeated else (value,):
        if number not in kind.values_by_number:
            raise errors.FieldInvalid(
                f"{number} is no {kind.name}",
                field=prefix + field.name,
                hint=f"one of {', '.join(list(kind.values_by_name)[1:13])}",
            )


def _missing_inside(message: Any, field: FieldDescriptor, prefix: str, budget: Iterator[int]) -> Iterator[str]:
    value, inner = getattr(message, field.name), _inner(field)
    if inner is None:
        return
    if _is_map(field):
        for key in value:
            yield from _missing(value[key], inner, f"{prefix}{field.name}[{key}].", budget)
    elif field.is_repeated:
        for index, item in enumerate(value):
            yield from _missing(item, inner, f"{prefix}{field.name}[{index}].", budget)
    elif message.HasField(field.name):
        yield from _missing(value, inner, f"{prefix}{field.name}.", budget)


def _is_set(message: Any, field: FieldDescriptor) -> bool:
    if field.has_presence:
        return bool(message.HasField(field.name))
    value = getattr(message, field.name)
    return len(value) > 0 if field.is_repeated else value != field.default_value


class _Plan:
    """What to look at in one message type."""

    __slots__ = ("enums", "nested", "oneofs", "required")

    def __init__(self, descriptor: Descriptor) -> None:
        self.oneofs: tuple[OneofDescriptor, ...] = tuple(one for one in descriptor.oneofs if _needs_one(one))
        covered = {field.name for oneof in self.oneofs for field in oneof.fields}
        self.required = tuple(f for f in descriptor.fields if f.name not in covered and _is_required(f))
        self.enums = tuple(f for f in descriptor.fields if f.enum_type is not None)
        self.nested = tuple(f for f in descriptor.fields if (inner := _inner(f)) is not None and _matters(inner))


@cache
def _plan(descriptor: Descriptor) -> _Plan:
    return _Plan(descriptor)


def _is_required(field: FieldDescriptor) -> bool:
    return _REQUIRED in field.GetOptions().Extensions[field_behavior_pb2.field_behavior]


def _needs_one(oneof: OneofDescriptor) -> bool:
    real = len(oneof.fields) > 1 or not oneof.name.startswith("_")  # `optional` fields make a oneof of their own
    return real and all(map(_is_required, oneof.fields))


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _inner(field: FieldDescriptor) -> Descriptor | None:
    """The message type to look into, a map's value type for maps."""
    inner = field.message_type
    if inner is not None and inner.GetOptions().map_entry:
        inner = inner.fields_by_name["value"].message_type
    return None if inner is None or inner.full_name in SKIPPED else inner


@cache
def _matters(descriptor: Descriptor) -> bool:
    """Whether the type, or any type reachable from it, has something REQUIRED or an enum. Types may be recursive."""
    seen: set[str] = set()
    waiting = [descriptor]
    while waiting:
        one = waiting.pop()
        if one.full_name in seen:
            continue
        seen.add(one.full_name)
        if any(_is_required(field) or field.enum_type is not None for field in one.fields):
            return True
        waiting.extend(inner for field in one.fields if (inner := _inner(field)) is not None)
    return False
