"""What the descriptor pool says about a method: its messages, and whether its responses can carry an error in band."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.rpc import status_pb2

_BATCH = "millrace.types.v1.Batch"


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC. `request` is None for services that are not in the pool."""

    full_name: str
    request: Descriptor | None = None
    response: Descriptor | None = None
    in_band_error: Callable[[status_pb2.Status], Message] | None = None
    """Makes the response that carries a status in its field `error`; None when responses have no such field."""

    @property
    def service(self) -> str:
        return self.full_name.strip("/").rpartition("/")[0]

    @property
    def name(self) -> str:
        return self.full_name.rpartition("/")[2]


@cache
def method(full_name: str) -> Method:
    """`full_name`: "/millrace.storage.v1.StorageService/AppendRows". Unknown ones come back without messages."""
    service, _, name = full_name.strip("/").rpartition("/")
    try:
        found: MethodDescriptor = descriptor_pool.Default().FindServiceByName(service).methods_by_name[name]
    except KeyError:
        return Method(full_name)
    return Method(full_name, found.input_type, found.output_type, _error_maker(found.output_type))


def _error_maker(response: Descriptor) -> Callable[[status_pb2.Status], Message] | None:
    field = response.fields_by_name.get("error")
    if field is None or field.message_type is None or field.message_type.full_name != "google.rpc.Status":
        return None
    response_class: Any = message_factory.GetMessageClass(response)

    def make(status: status_pb2.Status) -> Message:
        made: Message = response_class(error=status)
        return made

    return make


@cache
def batch_fields(message: Descriptor) -> tuple[str, ...]:
    """The fields of `message`, one level down into messages too ("batch", "append.batch"), that hold a Batch: rows are counted there."""
    found: list[str] = []
    for field in message.fields:
        if field.message_type is None or field.is_repeated:
            continue
        if field.message_type.full_name == _BATCH:
            found.append(field.name)
        else:
            found.extend(f"{field.name}.{inner.name}" for inner in field.message_type.fields if _is_batch(inner))
    return tuple(found)


def _is_batch(field: FieldDescriptor) -> bool:
    return field.message_type is not None and not field.is_repeated and field.message_type.full_name == _BATCH


def rows_in(message: object) -> int:
    """Rows that `message` says it carries; 0 for anything that is not a protobuf message."""
    if not isinstance(message, Message):
        return 0
    total = 0
    for path in batch_fields(message.DESCRIPTOR):
        holder: Any = message
        *outer, last = path.split(".")
        for name in outer:
            holder = getattr(holder, name) if holder.HasField(name) else None
            if holder is None:
                break
        if holder is not None and holder.HasField(last):
            total += getattr(holder, last).row_count
    return total
