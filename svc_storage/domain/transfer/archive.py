"""What an exported table is: a manifest, written last, and files of rows in the table's order.

    <destination>/manifest.json      the definition, the writers' records, every file with its SHA-256
    <destination>/job.json           which table and version is being exported, so that a broken-off export goes on
    <destination>/rows/000000.…      rows in the table's order, a fixed number per file; so do dead_letters/000000.…

Files are cut by a fixed number of rows, not by how the store cuts them: an export of an import has the same checksums, whatever the
two stores are made of.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from millrace.errors import ChecksumMismatch, FieldInvalid, MillraceError
from svc_storage.domain.definition import TableDefinition, check_references
from svc_storage.ports import ArchivePart, BatchMark, WriterState

FORMAT = 1
PART_ROWS = 500_000
MANIFEST, JOB = "manifest.json", "job.json"
_DAMAGED = (ValueError, KeyError, TypeError, AttributeError, OverflowError, ArithmeticError, RecursionError)
_PART = re.compile(r"(rows|dead_letters)/[0-9]{6,}\.[a-z]+")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DESTINATION = re.compile(r"[a-z0-9][a-z0-9_.-]*(/[a-z0-9][a-z0-9_.-]*)*")


def check_destination(name: str, *, field: str) -> str:
    """A folder's name below the archive. Raises FieldInvalid."""
    if len(name) > 200 or not _DESTINATION.fullmatch(name) or ".." in name:
        raise FieldInvalid(
            "a place in the archive is at most 200 of [a-z0-9_.-] in segments between `/`, without `..`",
            field=field,
            hint="for instance `backups/orders-2026-11-24`",
        )
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """`definition`: as the catalog keeps it. `schema`: of the rows, storage's own columns included."""

    table: str
    uid: str
    version: int
    time_us: int
    definition: str
    schema: pa.Schema
    schema_id: int
    rows: tuple[ArchivePart, ...]
    dead_letters: tuple[ArchivePart, ...]
    writers: Mapping[str, WriterState]
    event_time_high_us: int | None

    @property
    def row_count(self) -> int:
        return sum(part.row_count for part in self.rows)

    def to_bytes(self) -> bytes:
        raw = {
            "format": FORMAT,
            "table": self.table,
            "uid": self.uid,
            "version": self.version,
            "time_us": self.time_us,
            "definition": self.definition,
            "schema": base64.b64encode(self.schema.serialize().to_pybytes()).decode(),
            "schema_id": self.schema_id,
            "rows": [asdict(part) for part in self.rows],
            "dead_letters": [asdict(part) for part in self.dead_letters],
            "writers": {name: _writer_out(state) for name, state in self.writers.items()},
            "event_time_high_us": self.event_time_high_us,
        }
        return json.dumps(raw, indent=1, sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> Manifest:
        """Raises ChecksumMismatch when it is damaged, FieldInvalid when a newer release wrote it."""
        try:
            raw = json.loads(content)
            if int(raw["format"]) > FORMAT:
                raise FieldInvalid(
                    f"the archive has format {raw['format']}, this release reads up to {FORMAT}",
                    field="source",
                    hint="import it with the release that wrote it, or a newer one",
                )
            return _checked(
                cls(
                    table=raw["table"],
                    uid=raw["uid"],
                    version=raw["version"],
                    time_us=raw["time_us"],
                    definition=raw["definition"],
                    schema=pa.ipc.read_schema(pa.py_buffer(base64.b64decode(raw["schema"]))),
                    schema_id=raw["schema_id"],
                    rows=tuple(_part_in(part) for part in raw["rows"]),
                    dead_letters=tuple(_part_in(part) for part in raw["dead_letters"]),
                    writers={name: _writer_in(state) for name, state in raw["writers"].items()},
                    event_time_high_us=raw["event_time_high_us"],
                )
            )
        except (*_DAMAGED, pa.ArrowException) as damaged:
            raise ChecksumMismatch(f"{MANIFEST} of the archive is damaged", hint="export the table again") from damaged


def _checked(found: Manifest) -> Manifest:
    """A table made of a manifest that lies could not be opened, nor listed. Raises ValueError."""
    numbers = (found.version, found.time_us, found.schema_id)
    if not all(_is_count(number) for number in numbers) or not _is_time(found.event_time_high_us):
        raise ValueError("not a version, or not a time")
    names = [part.name for part in (*found.rows, *found.dead_letters)]
    if len(set(names)) != len(names):
        raise ValueError("a file of rows is named twice")
    definition = TableDefinition.from_json(found.definition)
    try:
        check_references(definition)
    except MillraceError as wrong:
        raise ValueError(wrong.message) from wrong
    columns = {name for name in found.schema.names if not name.startswith("_")}
    if not columns or not columns <= set(definition.schema.names) or not isinstance(definition.description, str):
        raise ValueError("the rows have other columns than the table")
    return found


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _is_time(value: object) -> bool:
    """Microseconds from 0001 to 9999, or none."""
    return value is None or (type(value) is int and abs(value) < 1 << 58)


def _part_in(raw: Mapping[str, Any]) -> ArchivePart:
    part = ArchivePart(**raw)
    if not _PART.fullmatch(part.name) or not _SHA256.fullmatch(part.sha256):
        raise ValueError("not the name or the checksum of a file of rows")
    if not (_is_count(part.row_count) and _is_count(part.size_bytes)):
        raise ValueError("not a count")
    return part


def _writer_out(state: WriterState) -> dict[str, Any]:
    return {
        "epoch": state.epoch,
        "next_offset": state.next_offset,
        "positions": dict(state.positions),
        "event_time_high_us": state.event_time_high_us,
        "marks": [[mark.offset, mark.rows, mark.crc32] for mark in state.marks],
        "owner": state.owner,
        "lease": state.lease,
    }


def _writer_in(raw: Mapping[str, Any]) -> WriterState:
    marks = tuple(BatchMark(*mark) for mark in raw["marks"])
    counts = [raw["epoch"], raw["next_offset"], *(number for mark in raw["marks"] for number in mark)]
    texts = [raw["owner"], raw["lease"], *raw["positions"].values()]
    if not all(map(_is_count, counts)) or not _is_time(raw["event_time_high_us"]):
        raise ValueError("not a writer's counts")
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("not a writer's positions")
    return WriterState(
        epoch=raw["epoch"],
        next_offset=raw["next_offset"],
        positions=raw["positions"],
        event_time_high_us=raw["event_time_high_us"],
        marks=marks,
        owner=raw["owner"],
        lease=raw["lease"],
    )
