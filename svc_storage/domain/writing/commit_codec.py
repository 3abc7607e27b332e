"""A commit as bytes, for the way between two replicas: JSON, packed. Stays within a release and its neighbours; logs have their own."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from svc_storage.ports import (
    BatchMark,
    Commit,
    CommitKind,
    DataFile,
    DeadLetterFile,
    Proposal,
    WriterPlace,
    WriterState,
)

MAX_BYTES = 3_500_000
_MAX_UNPACKED = 64 << 20


def encode(proposal: Proposal) -> bytes:
    """The inverse is `decode`."""
    commit = proposal.commit
    said = {
        "after": proposal.after,
        "base_schema_id": proposal.schema_id,
        "places": {name: [place.epoch, place.next_offset] for name, place in proposal.places.items()},
        "id": commit.id,
        "kind": commit.kind.value,
        "time": commit.time_us,
        "adds": [_file_out(file) for file in commit.adds],
        "removes": [_file_out(file) for file in commit.removes],
        "writers": {name: _writer_out(state) for name, state in commit.writers.items()},
        "dead": [_letters_out(file) for file in commit.dead_letters],
        "gone": [_letters_out(file) for file in commit.dead_letters_removed],
        "schema": None if commit.schema is None else commit.schema.serialize().to_pybytes().hex(),
        "schema_id": commit.schema_id,
        "high": commit.event_time_high_us,
        "trace": commit.trace_context,
        "expire": commit.expire_below,
        "gone_us": commit.gone_us,
    }
    return zlib.compress(json.dumps(said, allow_nan=False, separators=(",", ":")).encode(), 1)


def decode(content: bytes) -> Proposal:
    """Raises ValueError when the bytes are not such a proposal."""
    unpack = zlib.decompressobj()
    try:
        raw = json.loads(unpack.decompress(content, _MAX_UNPACKED))
        schema = raw["schema"]
        commit = Commit(
            id=raw["id"],
            kind=CommitKind(raw["kind"]),
            time_us=raw["time"],
            adds=tuple(DataFile(*fields) for fields in raw["adds"]),
            removes=tuple(DataFile(*fields) for fields in raw["removes"]),
            writers={name: _writer_in(fields) for name, fields in raw["writers"].items()},
            dead_letters=tuple(DeadLetterFile(*fields) for fields in raw["dead"]),
            dead_letters_removed=tuple(DeadLetterFile(*fields) for fields in raw["gone"]),
            schema=None if schema is None else pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(schema))),
            schema_id=raw["schema_id"],
            event_time_high_us=raw["high"],
            trace_context=raw["trace"],
            expire_below=raw["expire"],
            gone_us=raw["gone_us"],
        )
        places = {name: WriterPlace(*fields) for name, fields in raw["places"].items()}
        found = Proposal(commit=commit, after=raw["after"], schema_id=raw["base_schema_id"], places=places)
        _check(found)
        return found
    except (zlib.error, KeyError, TypeError, AttributeError, RecursionError, pa.ArrowException) as error:
        raise ValueError("not a proposed commit") from error


def _check(found: Proposal) -> None:
    """A commit goes into the log as it is: what has another type there makes the table unreadable. Raises ValueError."""
    commit, writers = found.commit, found.commit.writers.values()
    letters: list[DeadLetterFile] = [*commit.dead_letters, *commit.dead_letters_removed]
    files: list[DataFile] = [*commit.adds, *commit.removes]
    numbers: list[Any] = [
        found.after,
        found.schema_id,
        commit.time_us,
        commit.schema_id,
        commit.expire_below,
        commit.gone_us,
    ]
    numbers += [number for place in found.places.values() for number in (place.epoch, place.next_offset)]
    numbers += [number for file in _all(letters, files) for number in (file.size_bytes, file.row_count, file.added_in)]
    numbers += [number for file in files for number in (file.level, file.modified_ms)]
    numbers += [number for state in writers for number in (state.epoch, state.next_offset)]
    numbers += [number for state in writers for mark in state.marks for number in (mark.offset, mark.rows, mark.crc32)]
    if not all(type(number) is int and 0 <= number < 1 << 63 for number in numbers):
        raise ValueError("not a count")
    highs = [commit.event_time_high_us, *(state.event_time_high_us for state in writers)]
    if not all(high is None or (type(high) is int and abs(high) < 1 << 63) for high in highs):
        raise ValueError("not a time")
    texts: list[Any] = [commit.id, commit.trace_context, *(file.stats_json for file in files)]
    texts += [text for state in writers for text in (state.owner, state.lease, *state.positions.values())]
    paths: list[Any] = [file.path for file in _all(letters, files)]
    if not all(isinstance(text, str) for text in (*texts, *paths)):
        raise ValueError("not a text")
    if any(not path or path.startswith("/") or ".." in path.split("/") for path in paths):
        raise ValueError("not a file of the table")


def _file_out(file: DataFile) -> list[Any]:
    return [
        file.path,
        file.size_bytes,
        file.row_count,
        file.level,
        file.added_in,
        file.modified_ms,
        file.stats_json,
    ]


def _letters_out(file: DeadLetterFile) -> list[Any]:
    return [file.path, file.size_bytes, file.row_count, file.added_in]


def _writer_out(state: WriterState) -> list[Any]:
    marks = [[mark.offset, mark.rows, mark.crc32] for mark in state.marks]
    positions: Mapping[str, str] = dict(state.positions)
    return [state.epoch, state.next_offset, positions, state.event_time_high_us, marks, state.owner, state.lease]


def _writer_in(raw: list[Any]) -> WriterState:
    epoch, next_offset, positions, high, marks, owner, lease = raw
    return WriterState(epoch, next_offset, positions, high, tuple(BatchMark(*mark) for mark in marks), owner, lease)


def _all(letters: Sequence[DeadLetterFile], files: Sequence[DataFile]) -> Sequence[DataFile | DeadLetterFile]:
    return [*letters, *files]
