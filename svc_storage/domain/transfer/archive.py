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

from millrace.errors import ChecksumMismatch, FieldInvalid
from svc_storage.ports import ArchivePart, BatchMark, WriterState

FORMAT = 1
PART_ROWS = 500_000
MANIFEST, JOB = "manifest.json", "job.json"
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
            if raw["format"] > FORMAT:
                raise FieldInvalid(
                    f"the archive has format {raw['format']}, this release reads up to {FORMAT}",
                    field="source",
                    hint="import it with the release that wrote it, or a newer one",
                )
            return cls(
                table=raw["table"],
                uid=raw["uid"],
                version=raw["version"],
                time_us=raw["time_us"],
                definition=raw["definition"],
                schema=pa.ipc.read_schema(pa.py_buffer(base64.b64decode(raw["schema"]))),
                schema_id=raw["schema_id"],
                rows=tuple(ArchivePart(**part) for part in raw["rows"]),
                dead_letters=tuple(ArchivePart(**part) for part in raw["dead_letters"]),
                writers={name: _writer_in(state) for name, state in raw["writers"].items()},
                event_time_high_us=raw["event_time_high_us"],
            )
        except (ValueError, KeyError, TypeError, pa.ArrowInvalid) as damaged:
            raise ChecksumMismatch(f"{MANIFEST} of the archive is damaged", hint="export the table again") from damaged


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
    return WriterState(
        epoch=raw["epoch"],
        next_offset=raw["next_offset"],
        positions=raw["positions"],
        event_time_high_us=raw["event_time_high_us"],
        marks=marks,
        owner=raw["owner"],
        lease=raw["lease"],
    )
