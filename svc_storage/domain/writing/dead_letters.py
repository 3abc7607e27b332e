"""Rows that broke their table's contract, as a table of their own: `T$dead_letters`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from millrace import errors
from svc_storage.domain.writing.contract import BadRow, cut

SCHEMA = pa.schema(
    [
        pa.field("writer", pa.string(), nullable=False, metadata={b"description": b"who sent the row"}),
        pa.field(
            "offset", pa.int64(), nullable=False, metadata={b"description": b"the row's offset in its writer's count"}
        ),
        pa.field(
            "position", pa.string(), metadata={b"description": b"the source's position after the row's batch, JSON"}
        ),
        pa.field("reason", pa.string(), nullable=False, metadata={b"description": b"machine-readable"}),
        pa.field("field", pa.string(), metadata={b"description": b"the column at fault"}),
        pa.field("message", pa.string(), metadata={b"description": b"for people"}),
        pa.field(
            "raw", pa.binary(), metadata={b"description": b"the source's bytes, or the row as JSON; at most 64 KiB"}
        ),
        pa.field("time", pa.timestamp("us", "UTC"), nullable=False, metadata={b"description": b"when it was kept"}),
    ]
)
EVENT_TIME = "time"
FOLDER = "_millrace/dead_letters"


@dataclass(frozen=True, slots=True)
class ClientDeadLetter:
    """A row the writer could not parse. `place`: its index among the n = batch rows + dead letters."""

    place: int
    reason: str
    field: str
    raw: bytes


@dataclass(frozen=True, slots=True)
class DeadRow:
    """A kept row with its offset in the writer's count."""

    offset: int
    reason: str
    field: str
    message: str
    raw: bytes


def merge(offset: int, rows: int, clients: Sequence[ClientDeadLetter], bad: Sequence[BadRow]) -> tuple[DeadRow, ...]:
    """All dead rows of one batch, by offset. `rows`: rows of the batch; `bad`: those of them that broke the contract.

    Batch rows take, in order, the places that no client dead letter names. Raises FieldInvalid for a place out of range or doubled."""
    total = rows + len(clients)
    places = {letter.place for letter in clients}
    if len(places) != len(clients) or any(not 0 <= place < total for place in places):
        raise errors.FieldInvalid(f"row_index is unique and in [0, {total})", field="batch.dead_letters.row_index")
    dead = [DeadRow(offset + letter.place, letter.reason, letter.field, "", cut(letter.raw)) for letter in clients]
    if bad:
        free = [place for place in range(total) if place not in places] if places else range(total)
        dead += [DeadRow(offset + free[row.index], row.reason, row.field, row.message, row.raw) for row in bad]
    return tuple(sorted(dead, key=lambda row: row.offset))


def table_of(parts: Sequence[tuple[str, Mapping[str, str], Sequence[DeadRow]]], *, time_us: int) -> pa.RecordBatch:
    """`parts`: (writer, position after the batch, its dead rows)."""
    columns: dict[str, list[object]] = {name: [] for name in SCHEMA.names}
    for writer, positions, rows in parts:
        position = json.dumps(dict(positions), sort_keys=True) if positions else None
        for row in rows:
            values = (
                writer,
                row.offset,
                position,
                row.reason,
                row.field or None,
                row.message or None,
                row.raw,
                time_us,
            )
            for name, value in zip(SCHEMA.names, values, strict=True):
                columns[name].append(value)
    return pa.RecordBatch.from_pydict(columns, schema=SCHEMA)
