"""Millrace's record inside a Delta commit, and a Delta log file as a commit.

The record is the key `millrace` of commitInfo, JSON in a string. Paths of data files carry their level (`l0-…`): Delta's own
actions have no place for it. Commits of other programs have no record; they are read by what they did.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote

import pyarrow as pa
from deltalake import CommitProperties, Schema

from svc_storage.adapters.delta import features
from svc_storage.domain.reading.statistics import rows_in
from svc_storage.ports import (
    BatchMark,
    Commit,
    CommitKind,
    Committed,
    DataFile,
    DeadLetterFile,
    Snapshot,
    Version,
    WriterState,
)

KEY = "millrace"
EPOCH_SHIFT = 40
_PLAIN = "/~!$&'()+,:;@="
"""What delta-rs leaves as it is in a path: readers compare paths as they are written."""
_LEVEL = re.compile(r"l(\d)-")


def txn_version(writer: WriterState) -> int:
    """Delta's transaction version of a writer: grows with each commit that moves it."""
    return writer.epoch << EPOCH_SHIFT | writer.next_offset


def encode_record(commit: Commit) -> str:
    """The commit's own words, for commitInfo; what it has nothing of is left out."""
    said = {
        "writers": {name: _writer(state) for name, state in commit.writers.items()},
        "dead": [[file.path, file.size_bytes, file.row_count] for file in commit.dead_letters],
        "schema_id": commit.schema_id,
        "trace": commit.trace_context,
        **_ended(commit),
    }
    return _dumps(
        {
            "id": commit.id,
            "kind": commit.kind.value,
            "time": commit.time_us,
            **{name: value for name, value in said.items() if value},
            "high": commit.event_time_high_us,
            "parts": [len(commit.adds), len(commit.removes), len(commit.writers) + has_own_txn(commit)],
        }
    )


def encode_log_file(version: Version, commit: Commit, *, now_ms: int) -> bytes:
    """`_delta_log/N.json` as delta-rs writes it, less what no reader needs, of a commit that leaves the columns as they are.

    Raises ValueError for statistics that are no JSON: they would poison the table."""
    changed = commit.kind is not CommitKind.COMPACT
    writers = [(name, txn_version(state)) for name, state in commit.writers.items()]
    if has_own_txn(commit):
        writers.append(("millrace.compact", version))
    for file in commit.adds:
        json.loads(file.stats_json, parse_constant=_refuse)
    actions: list[Mapping[str, Any]] = [
        {
            "commitInfo": {
                "timestamp": now_ms,
                "operation": "WRITE",
                KEY: encode_record(commit),
            }
        }
    ]
    actions += ({"add": _add(file, changed)} for file in commit.adds)
    actions += ({"remove": _remove(file, changed, now_ms)} for file in commit.removes)
    actions += ({"txn": {"appId": name, "version": number}} for name, number in writers)
    return "\n".join(map(_dumps, actions)).encode()


def _add(file: DataFile, changed: bool) -> Mapping[str, Any]:
    return {
        "path": quote(file.path, safe=_PLAIN),
        "partitionValues": {},
        "size": file.size_bytes,
        "modificationTime": file.modified_ms,
        "dataChange": changed,
        "stats": file.stats_json,
    }


def _remove(file: DataFile, changed: bool, now_ms: int) -> Mapping[str, Any]:
    return {
        "path": quote(file.path, safe=_PLAIN),
        "dataChange": changed,
        "deletionTimestamp": now_ms,
        "size": file.size_bytes,
    }


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} in statistics")


def has_own_txn(commit: Commit) -> bool:
    """A commit that moves no writer carries a transaction of ours: Delta gets something to write, and two of them conflict."""
    return not commit.writers and commit.kind is not CommitKind.SCHEMA


def _ended(commit: Commit) -> Mapping[str, Any]:
    """What an expiry or an erasure says beside its files."""
    return {
        "gone": [[file.path, file.size_bytes, file.row_count] for file in commit.dead_letters_removed],
        "expire": commit.expire_below,
        "gone_us": commit.gone_us,
    }


def creation(uid: str, time_us: int) -> CommitProperties:
    """What version 0 says of itself."""
    commit = Commit(id=f"create-{uid}", kind=CommitKind.SCHEMA, time_us=time_us, schema_id=1)
    return CommitProperties(custom_metadata={KEY: encode_record(commit)})


def decode_log_file(version: Version, text: bytes) -> Committed:
    """One `_delta_log/N.json`. Raises ValueError when it is empty, not JSON, or ends after fewer lines than it was written with;
    BackendCapability when it takes more than this to read the table."""
    actions = [json.loads(line) for line in text.splitlines() if line.strip()]
    if not actions:
        raise ValueError("empty log file")
    features.check(actions)
    info: Mapping[str, Any] = next((action["commitInfo"] for action in actions if "commitInfo" in action), {})
    adds = [action["add"] for action in actions if "add" in action]
    removes = [action["remove"] for action in actions if "remove" in action]
    meta = next((action["metaData"] for action in actions if "metaData" in action), None)
    record = json.loads(info[KEY]) if KEY in info else _guess(info, adds, removes, meta)
    parts = [len(adds), len(removes), sum("txn" in action for action in actions)]
    if record.get("parts", parts) != parts:
        raise ValueError("the log file is cut")
    return Committed(
        version,
        Commit(
            id=record["id"],
            kind=CommitKind(record["kind"]),
            time_us=record["time"],
            adds=tuple(_added(add, version) for add in adds),
            removes=tuple(DataFile(unquote(remove["path"]), remove.get("size") or 0, 0) for remove in removes),
            writers={name: _writer_state(raw) for name, raw in record.get("writers", {}).items()},
            dead_letters=tuple(DeadLetterFile(raw[0], raw[1], raw[2], version) for raw in record.get("dead", ())),
            schema=schema_from_json(meta["schemaString"]) if meta else None,
            schema_id=record.get("schema_id", 0),
            event_time_high_us=record.get("high"),
            trace_context=record.get("trace", ""),
            dead_letters_removed=tuple(DeadLetterFile(raw[0], raw[1], raw[2]) for raw in record.get("gone", ())),
            expire_below=record.get("expire", 0),
            gone_us=record.get("gone_us", 0),
        ),
    )


def encode_snapshot(snapshot: Snapshot, removed_us: Mapping[str, int]) -> bytes:
    """A base: everything that log clean-up would take from us."""
    return _dumps(
        {
            "version": snapshot.version,
            "time": snapshot.time_us,
            "schema": schema_to_json(snapshot.schema),
            "schema_id": snapshot.schema_id,
            "high": snapshot.event_time_high_us,
            "writers": {name: _writer(state) for name, state in snapshot.writers.items()},
            "dead": [[file.path, file.size_bytes, file.row_count, file.added_in] for file in snapshot.dead_letters],
            "files": [
                [f.path, f.size_bytes, f.row_count, f.level, f.added_in, f.modified_ms, f.stats_json]
                for f in snapshot.files.values()
            ],
            "removed": dict(removed_us),
        }
    ).encode()


def decode_snapshot(content: bytes) -> tuple[Snapshot, Mapping[str, int]]:
    """The inverse. Raises ValueError when the bytes are not such a record."""
    raw = json.loads(content)
    if not isinstance(raw, dict) or "files" not in raw:
        raise ValueError("not a snapshot")
    files = (DataFile(*fields) for fields in raw["files"])
    snapshot = Snapshot(
        version=raw["version"],
        time_us=raw["time"],
        schema=schema_from_json(raw["schema"]),
        schema_id=raw["schema_id"],
        files={file.path: file for file in files},
        writers={name: _writer_state(state) for name, state in raw["writers"].items()},
        dead_letters=tuple(DeadLetterFile(*fields) for fields in raw["dead"]),
        event_time_high_us=raw["high"],
    )
    return snapshot, raw["removed"]


def schema_to_json(schema: pa.Schema) -> str:
    """Delta's schema string."""
    return str(Schema.from_arrow(schema).to_json())


def schema_from_json(text: str) -> pa.Schema:
    """The inverse; field metadata survives."""
    return pa.schema(Schema.from_json(text).to_arrow())


def _writer(state: WriterState) -> list[Any]:
    marks = [[mark.offset, mark.rows, mark.crc32] for mark in state.marks]
    return [
        state.epoch,
        state.next_offset,
        dict(state.positions),
        state.event_time_high_us,
        marks,
        state.owner,
        state.lease,
    ]


def _writer_state(raw: list[Any]) -> WriterState:
    epoch, next_offset, positions, high, marks, owner, lease = raw
    return WriterState(epoch, next_offset, positions, high, tuple(BatchMark(*mark) for mark in marks), owner, lease)


def _added(add: Mapping[str, Any], version: Version) -> DataFile:
    stats = add.get("stats") or "{}"
    level = int(found[1]) if (found := _LEVEL.match(add["path"])) else 0
    return DataFile(
        unquote(add["path"]), add["size"], rows_in(stats), level, version, add.get("modificationTime") or 0, stats
    )


def _guess(info: Mapping[str, Any], adds: list[Any], removes: list[Any], meta: Any) -> dict[str, Any]:
    changed = any(action.get("dataChange", True) for action in (*adds, *removes))
    if not changed and (adds or removes):
        kind = CommitKind.COMPACT
    elif any(remove.get("dataChange", True) for remove in removes):
        kind = CommitKind.MERGE
    elif adds:
        kind = CommitKind.APPEND
    else:
        kind = CommitKind.SCHEMA if meta else CommitKind.FENCE
    return {"id": "", "kind": kind.value, "time": int(info.get("timestamp", 0)) * 1000}


def _dumps(value: Any) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))
