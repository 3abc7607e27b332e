"""Bytes of a text file to UTF-8 records with the places they came from, whatever the encoding."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from millrace.errors import FieldInvalid
from svc_extract.domain.parsing.csv_rows import is_utf8
from svc_extract.domain.parsing.records import Dialect, Records, split

_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be"),
         (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))  # fmt: skip
LONGEST_BOM = 4
_ASCII = '\n,"a+1;'
"""What an encoding has to keep as it is, so that records can be found in the bytes."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """`unit`: bytes of the smallest code unit; above 1 line breaks cannot be found in the bytes. `bom`: bytes to skip at the start."""

    name: str = "utf-8"
    unit: int = 1
    bom: int = 0

    @classmethod
    def named(cls, name: str) -> Encoding:
        """Raises FieldInvalid for one that Python does not know, or that is none of text."""
        try:
            found = codecs.lookup(name or "utf-8").name
            plain = _ASCII.encode(found)
        except (LookupError, UnicodeError, ValueError) as error:
            raise FieldInvalid(
                f"`{name[:64]}` is not a text encoding", field="csv.encoding", hint="utf-8, latin-1, utf-16"
            ) from error
        if found in ("utf-16", "utf-32"):
            return cls(f"{found}-le", 2 if found == "utf-16" else 4)
        if found.startswith(("utf-16", "utf-32")):
            return cls(found, 2 if found.startswith("utf-16") else 4)
        if found == "utf-8-sig":
            return cls("utf-8")
        if plain != _ASCII.encode():
            raise FieldInvalid(
                f"`{name[:64]}` does not keep ASCII", field="csv.encoding", hint="utf-8, latin-1, utf-16"
            )
        return cls(found)

    def of_file(self, head: bytes) -> Encoding:
        """What a file whose first bytes are `head` is written in: a byte order mark outdoes what was said."""
        for mark, name in _BOMS:
            if head.startswith(mark):
                return Encoding(name, {"utf-8": 1}.get(name, 2 if "16" in name else 4), len(mark))
        return self


@dataclass(frozen=True, slots=True)
class Block:
    """Records of a block as UTF-8. `raws` are their bytes as they were, `nexts` where in the block what follows each begins.

    `bad`, `consumed`, `overlong`: as in Records."""

    records: Sequence[bytes]
    raws: Sequence[bytes]
    nexts: np.ndarray
    bad: dict[int, str] = field(default_factory=dict)
    consumed: int = 0
    overlong: bool = False


def block_of(data: bytes, dialect: Dialect, encoding: Encoding, *, final: bool) -> Block:
    """The whole records at the start of `data`; `encoding.bom` is not looked at."""
    if encoding.unit > 1:
        return _wide(data, dialect, encoding, final)
    found = split(data, dialect, final=final)
    raws = _slices(data, found)
    if encoding.name == "utf-8":
        return Block(raws, raws, found.nexts, found.bad, found.consumed, found.overlong)
    records = []
    for index, raw in enumerate(raws):
        try:
            records.append(raw.decode(encoding.name).encode())
        except UnicodeError:
            records.append(raw)
            found.bad.setdefault(index, "ENCODING")
    return Block(records, raws, found.nexts, found.bad, found.consumed, found.overlong)


def _wide(data: bytes, dialect: Dialect, encoding: Encoding, final: bool) -> Block:
    decoder = codecs.getincrementaldecoder(encoding.name)("surrogatepass")
    try:
        text = decoder.decode(data, final=False)
    except UnicodeError:
        text = data.decode(encoding.name, "replace")
    plain = text.encode("utf-8", "surrogatepass")
    found = split(plain, dialect, final=final)
    records = _slices(plain, found)

    def back(part: bytes) -> bytes:
        return part.decode("utf-8", "surrogatepass").encode(encoding.name, "surrogatepass")

    edges = np.concatenate([[0], found.nexts])
    lengths = [len(back(plain[start:end])) for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)]
    for index, record in enumerate(records):
        if not is_utf8(record):
            found.bad.setdefault(index, "ENCODING")
    return Block(
        records,
        [back(record) for record in records],
        np.cumsum(np.array(lengths, np.int64)),
        found.bad,
        len(back(plain[: found.consumed])),
        found.overlong,
    )


def _slices(data: bytes, found: Records) -> list[bytes]:
    return [data[start:end] for start, end in zip(found.starts.tolist(), found.ends.tolist(), strict=True)]
