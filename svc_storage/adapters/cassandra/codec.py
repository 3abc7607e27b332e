"""A table's commits and states as bytes: JSON of the ports' own values, packed. Fields are told by name, so a release may add some.

form byte, CRC-32 of the rest, size unpacked, zstd of the JSON.
"""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from svc_storage.ports import BatchMark, Commit, CommitKind, DataFile, DeadLetterFile, Snapshot, WriterState

FORM = 1
_HEAD = struct.Struct(">BII")
_VALUES: Mapping[str, type] = MappingProxyType(
    {"f": DataFile, "d": DeadLetterFile, "w": WriterState, "b": BatchMark, "c": Commit, "s": Snapshot}
)
_TAGS = MappingProxyType({kind: tag for tag, kind in _VALUES.items()})
_NAMES = MappingProxyType({kind: tuple(field.name for field in fields(kind)) for kind in _TAGS})
_POSITIONAL = (DataFile, DeadLetterFile, BatchMark)
"""There are many of these: told by place, and fields are only ever added at their end."""


def encode_commit(commit: Commit) -> bytes:
    return _packed(_out(commit))


def decode_commit(content: bytes) -> Commit:
    """Raises ValueError when the bytes are not one of this form."""
    commit: Commit = _decoded(content, Commit)
    return commit


def encode_base(snapshot: Snapshot, removed_us: Mapping[str, int]) -> bytes:
    return _packed([_out(snapshot), dict(removed_us)])


def decode_base(content: bytes) -> tuple[Snapshot, Mapping[str, int]]:
    """Raises ValueError."""
    try:
        stored, removed_us = _unpacked(content)
        return _in(stored), removed_us
    except (KeyError, TypeError, IndexError, AttributeError) as broken:
        raise ValueError("not a table's state") from broken


def schema_bytes(schema: pa.Schema) -> bytes:
    return bytes(schema.serialize())


def schema_from(content: bytes) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(content))


def _decoded(content: bytes, kind: type) -> Any:
    try:
        found = _in(_unpacked(content))
    except (KeyError, TypeError, IndexError, AttributeError) as broken:
        raise ValueError("not a commit") from broken
    if not isinstance(found, kind):
        raise ValueError("not a commit")
    return found


def _packed(content: Any) -> bytes:
    text = json.dumps(content, allow_nan=False, separators=(",", ":")).encode()
    body: bytes = pa.compress(text, codec="zstd", asbytes=True)
    return _HEAD.pack(FORM, zlib.crc32(body), len(text)) + body


def _unpacked(content: bytes) -> Any:
    if len(content) < _HEAD.size:
        raise ValueError("cut")
    form, crc, size = _HEAD.unpack_from(content)
    body = content[_HEAD.size :]
    if form != FORM:
        raise ValueError(f"form {form}, this release knows {FORM}")
    if zlib.crc32(body) != crc:
        raise ValueError("another checksum")
    return json.loads(pa.decompress(body, decompressed_size=size, codec="zstd", asbytes=True))


def _out(value: Any) -> Any:
    """A list begins with its tag, an object is a mapping by text; the rest stands for itself."""
    if value is None or isinstance(value, bool | int | str):
        return value.value if isinstance(value, CommitKind) else value
    if isinstance(value, pa.Schema):
        return ["schema", base64.b64encode(schema_bytes(value)).decode()]
    if isinstance(value, Mapping):
        return {key: _out(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return ["", *map(_out, value)]
    kind = type(value)
    parts = {name: getattr(value, name) for name in _NAMES[kind]}
    if kind in _POSITIONAL:
        return [_TAGS[kind], *map(_out, parts.values())]
    return [_TAGS[kind], {name: _out(one) for name, one in parts.items()}]


def _in(stored: Any) -> Any:
    if isinstance(stored, dict):
        return {key: _in(one) for key, one in stored.items()}
    if not isinstance(stored, list):
        return stored
    tag, *rest = stored
    if tag == "":
        return tuple(map(_in, rest))
    if tag == "schema":
        return schema_from(base64.b64decode(rest[0]))
    kind = _VALUES[tag]
    if kind in _POSITIONAL:
        return kind(*map(_in, rest))
    named = {name: _in(one) for name, one in rest[0].items() if name in _NAMES[kind]}
    if kind is Commit:
        named["kind"] = CommitKind(named["kind"])
    return kind(**named)
