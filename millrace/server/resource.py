"""The metadata that a mesh authorises by must name a resource that the body names (contracts.md section 6)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf.message import Message

from millrace import errors
from millrace.server import names

_PREFIX = "namespaces/"


def check_resource(metadata: Mapping[str, str], message: Any) -> None:
    """Raises FieldInvalid when `x-millrace-resource` is sent and is none of the full names that `message` acts on.

    Absent is allowed, and so is a message that names nothing in full (a token, a bare table name, a stream's later frames)."""
    wanted = metadata.get(names.RESOURCE)
    if not wanted or not isinstance(message, Message):
        return
    named = set(_named(message, nested=True))
    if named and wanted not in named:
        raise errors.FieldInvalid(
            f"the metadata {names.RESOURCE} does not name the request's resource",
            hint=f"send the request's own name as {names.RESOURCE}, or leave it out",
        )


def _named(message: Message, *, nested: bool) -> Iterator[str]:
    """Full names in the message itself and in the messages right inside it (`table.name`, `open.source`)."""
    for field, value in message.ListFields():
        if field.is_repeated:
            continue
        if isinstance(value, str) and value.startswith(_PREFIX):
            yield value
        elif nested and isinstance(value, Message):
            yield from _named(value, nested=False)
