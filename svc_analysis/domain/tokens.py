"""Resume tokens: opaque to callers, good on any replica, useless for another question.

Layout: format byte, fingerprint (16), rows sent (8), count (1), then per table hash of its name (8), hash of its uid (8),
version (8); CRC32 (4). The tables' names are in the question, so eight bytes tell them apart.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from millrace.errors import FieldInvalid, TableRecreated, TokenMismatch, TokenUnsupported

_FORMAT = 1
_HEAD = struct.Struct("<B16sQB")
_TABLE = struct.Struct("<8s8sQ")
MAX_TABLES = 19
"""More do not fit 512 bytes: such questions carry no tokens."""


@dataclass(frozen=True, slots=True)
class Token:
    """`tables`: (hash of name, hash of uid) → version."""

    fingerprint: bytes
    rows: int
    tables: Mapping[tuple[bytes, bytes], int]

    def versions(self, names: Iterable[str]) -> dict[str, int]:
        """Version per full name. Raises TokenMismatch when the names are not the token's."""
        by_name = {name: version for (name, _), version in self.tables.items()}
        found = {name: by_name[_hash(name)] for name in names if _hash(name) in by_name}
        if len(found) != len(by_name):
            raise _mismatch()
        return found

    def check_uids(self, uids: Mapping[str, str]) -> None:
        """Raises TableRecreated when a table is not the one that the token speaks of."""
        known = dict(self.tables.keys())
        for name, uid in uids.items():
            if known.get(_hash(name), _hash(uid)) != _hash(uid):
                raise TableRecreated(f"`{name}` was made again since", hint="ask again without the token")


def encode(fingerprint: bytes, rows: int, versions: Mapping[str, int], uids: Mapping[str, str]) -> bytes:
    """A token that means "after `rows` rows at these versions"; empty when it would be too long."""
    if len(versions) > MAX_TABLES:
        return b""
    head = _HEAD.pack(_FORMAT, fingerprint[:16], rows, len(versions))
    parts = [_TABLE.pack(_hash(name), _hash(uids[name]), version) for name, version in sorted(versions.items())]
    body = head + b"".join(parts)
    return body + struct.pack("<I", zlib.crc32(body))


def decode(raw: bytes, fingerprint: bytes) -> Token:
    """Raises FieldInvalid (not a token), TokenUnsupported (of another release), TokenMismatch (of another question)."""
    if len(raw) > 512:
        raise FieldInvalid("a token has at most 512 bytes", field="resume_token")
    if raw[:1] != bytes([_FORMAT]):
        raise TokenUnsupported("the token is of a format this server does not know", hint="start without it")
    body, checksum = raw[:-4], raw[-4:]
    if len(raw) < _HEAD.size + 4 or struct.pack("<I", zlib.crc32(body)) != checksum:
        raise FieldInvalid("the token is damaged", field="resume_token", hint="send it exactly as it came")
    _, mark, rows, count = _HEAD.unpack_from(body)
    if len(body) != _HEAD.size + count * _TABLE.size:
        raise FieldInvalid("the token is damaged", field="resume_token", hint="send it exactly as it came")
    if mark != fingerprint[:16]:
        raise _mismatch()
    tables = _TABLE.iter_unpack(body[_HEAD.size :])
    return Token(mark, rows, {(name, uid): version for name, uid, version in tables})


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:8]


def _mismatch() -> TokenMismatch:
    return TokenMismatch(
        "the token belongs to another question",
        field="resume_token",
        hint="repeat the request as it was, except encoding, compression and sizes",
    )
