"""Entries and snapshots as bytes: form, CRC-32, the id that tells our entry from another's, then zlib over JSON. Equal content makes
equal bytes but for the id.
"""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from types import MappingProxyType
from typing import Any

from millrace.errors import ChecksumMismatch, StoreUnavailable
from svc_storage.adapters.control_log.state import OPERATIONS, Frozen, Operation
from svc_storage.ports import Answer, LeaseRow, Packed, Resource, ResourceEvent, TableRow

FORM = 1
ID_BYTES = 16
_HEAD = struct.Struct(">BI")
_KINDS: Mapping[str, type] = MappingProxyType(
    {"t": TableRow, "r": Resource, "p": Packed, "e": ResourceEvent, "l": LeaseRow, "a": Answer}
)
_TAGS: Mapping[type, str] = MappingProxyType({kind: tag for tag, kind in _KINDS.items()})
_FIELDS: Mapping[type, tuple[str, ...]] = MappingProxyType(
    {kind: tuple(field.name for field in fields(kind)) for kind in _TAGS}
)


def encode_entry(operations: Sequence[Operation], entry_id: bytes) -> bytes:
    return _framed([[op.name, _out(op.arguments), _out(op.named)] for op in operations], entry_id)


def decode_entry(n: int, data: bytes) -> Sequence[Operation]:
    """Raises ChecksumMismatch naming the entry, StoreUnavailable when a newer release wrote it."""
    name = f"entry {n} of the control log"
    found = [Operation(kind, _in(args), _in(named)) for kind, args, named in _read(data, name)]
    if unknown := {op.name for op in found} - OPERATIONS.keys():
        raise _newer(f"{name} holds {min(unknown)}")
    return found


def encode_snapshot(state: Frozen) -> bytes:
    return _framed([_out(getattr(state, part)) for part in Frozen.__slots__], bytes(ID_BYTES))


def decode_snapshot(n: int, data: bytes) -> Frozen:
    """Raises as `decode_entry`."""
    parts = _read(data, f"snapshot {n} of the control log")
    return Frozen(**{part: _in(stored) for part, stored in zip(Frozen.__slots__, parts, strict=True)})


def _framed(content: Any, entry_id: bytes) -> bytes:
    body = entry_id + zlib.compress(json.dumps(content, separators=(",", ":")).encode(), 1)
    return _HEAD.pack(FORM, zlib.crc32(body)) + body


def _read(data: bytes, name: str) -> Any:
    if len(data) < _HEAD.size + ID_BYTES:
        raise _damaged(name)
    form, crc = _HEAD.unpack_from(data)
    body = memoryview(data)[_HEAD.size :]
    if zlib.crc32(body) != crc:
        raise _damaged(name)
    if form != FORM:
        raise _newer(f"{name} has form {form}, this release knows {FORM}")
    return json.loads(zlib.decompress(body[ID_BYTES:]))


def _damaged(name: str) -> ChecksumMismatch:
    return ChecksumMismatch(f"{name} is damaged", hint="restore it from a backup of the store; nothing reads past it")


def _newer(what: str) -> StoreUnavailable:
    return StoreUnavailable(what, hint="a newer release wrote it: start that one, or a newer", retry_after_ms=60_000)


def _out(value: Any) -> Any:
    """Lists begin with what they hold."""
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, bytes):
        return ["b", base64.b64encode(value).decode()]
    if isinstance(value, tuple | list):
        return ["", *map(_out, value)]
    if isinstance(value, dict):
        return ["m", *([_out(key), _out(one)] for key, one in value.items())]
    kind = type(value)
    return [_TAGS[kind], *(_out(getattr(value, name)) for name in _FIELDS[kind])]


def _in(stored: Any) -> Any:
    if not isinstance(stored, list):
        return stored
    tag, *rest = stored
    if (special := _SPECIAL.get(tag)) is not None:
        return special(rest)
    kind = _KINDS[tag]
    return kind(**dict(zip(_FIELDS[kind], map(_in, rest), strict=False)))


_SPECIAL: Mapping[str, Callable[[list[Any]], Any]] = MappingProxyType(
    {
        "b": lambda rest: base64.b64decode(rest[0]),
        "": lambda rest: tuple(map(_in, rest)),
        "m": lambda rest: {_in(key): _in(one) for key, one in rest},
    }
)
