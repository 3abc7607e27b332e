"""Reads that are under way: a version that was handed out in the last 6 h can still be read when its log entry is gone.

Which versions were planned is kept in memory and, every half minute, in the record `plans/noted.json` (one per replica, where there are
several: whoever cuts the log reads all of them). Just before the log is cut, what it
says of the versions that go is written as one record, `plans/<first>-<last>.json`: a live table plans every version, and one record a
cut costs no more than the log did.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from svc_storage.domain.versions import fold
from svc_storage.ports import (
    Clock,
    Commit,
    CommitKind,
    Committed,
    DataFile,
    DeadLetterFile,
    Snapshot,
    TableFiles,
    Version,
)

KEPT_US = 6 * 3600 * 1_000_000
NOTE_AGAIN_US = 60_000_000
WRITE_EVERY_US = 30_000_000
FOLDER = "_millrace/plans/"
_NOTED = re.compile(rf"{FOLDER}(noted(?:-[a-z0-9]+)?\.json)")
_RANGE = re.compile(rf"{FOLDER}(\d+)-(\d+)\.json")


class Plans:
    def __init__(self, files: TableFiles, clock: Clock, replica: str = "") -> None:
        self._files, self._clock = files, clock
        self._record = f"plans/noted-{replica}.json" if replica else "plans/noted.json"
        self._noted: dict[Version, int] = {}  # version -> last planned, µs
        self._written_us = 0
        self._changed = False
        self._ranges: set[tuple[Version, Version]] = set()

    async def start(self) -> None:
        """Reads what an earlier process noted and kept."""
        await self.take_in()

    async def take_in(self) -> None:
        """What every replica noted and kept, as of now."""
        for path, _ in await self._files.list_paths():
            if found := _RANGE.fullmatch(path):
                self._ranges.add((int(found[1]), int(found[2])))
            elif (found := _NOTED.fullmatch(path)) and (content := await self._files.get_record(f"plans/{found[1]}")):
                for version, time_us in json.loads(content).items():
                    self._noted[int(version)] = max(time_us, self._noted.get(int(version), 0))
        self._forget_old()

    def note(self, version: Version) -> None:
        now_us = self._clock.now_us()
        if now_us - self._noted.get(version, 0) > NOTE_AGAIN_US:
            self._noted[version] = now_us
            self._changed = True

    async def write_notes(self) -> None:
        """Makes the notes survive a restart, now and then."""
        now_us = self._clock.now_us()
        if self._changed and now_us - self._written_us > WRITE_EVERY_US:
            self._changed, self._written_us = False, now_us
            self._forget_old()
            await self._files.put_record(self._record, json.dumps(self._noted).encode())

    def under_way(self, first: Version, last: Version) -> bool:
        """Is any version of [first, last] still being read?"""
        self._forget_old()
        return any(first <= version <= last for version in self._noted)

    async def keep(self, base: Snapshot, commits: Sequence[Committed]) -> None:
        """What the log says of `base` and the versions right after it, before that is cut."""
        last = commits[-1].version if commits else base.version
        content = {"base": _base_out(base), "commits": [_commit_out(found) for found in commits]}
        record = json.dumps(content, separators=(",", ":")).encode()
        await self._files.put_record(f"plans/{base.version}-{last}.json", record)
        self._ranges.add((base.version, last))

    async def load(self, version: Version, head: Snapshot) -> Snapshot | None:
        """A version that the log has lost, None when it was not kept. Writers are the head's."""
        for first, last in self._ranges:
            if first <= version <= last and (content := await self._files.get_record(f"plans/{first}-{last}.json")):
                raw = json.loads(content)
                snapshot = _base_in(raw["base"], head)
                for commit in raw["commits"]:
                    if commit["version"] <= version:
                        snapshot = fold(snapshot, _commit_in(commit))
                return snapshot
        return None

    def forget(self, path: str) -> None:
        """A kept record was removed."""
        if found := _RANGE.fullmatch(path):
            self._ranges.discard((int(found[1]), int(found[2])))

    def _forget_old(self) -> None:
        oldest_us = self._clock.now_us() - KEPT_US
        self._noted = {version: time_us for version, time_us in self._noted.items() if time_us >= oldest_us}


def _base_out(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "version": snapshot.version,
        "time": snapshot.time_us,
        "high": snapshot.event_time_high_us,
        "columns": _columns_out(snapshot.schema, snapshot.schema_id),
        "files": [_file_out(file) for file in snapshot.files.values()],
        "dead": [_letters_out(file) for file in snapshot.dead_letters],
    }


def _base_in(raw: dict[str, Any], head: Snapshot) -> Snapshot:
    files = [DataFile(*fields) for fields in raw["files"]]
    schema, schema_id = _columns_in(raw.get("columns")) or (head.schema, head.schema_id)
    return replace(
        head,
        version=raw["version"],
        schema=schema,
        schema_id=schema_id,
        time_us=raw["time"],
        files={file.path: file for file in files},
        dead_letters=tuple(DeadLetterFile(*fields) for fields in raw["dead"]),
        event_time_high_us=raw["high"],
    )


def _commit_out(found: Committed) -> dict[str, Any]:
    commit = found.commit
    return {
        "version": found.version,
        "kind": commit.kind.value,
        "columns": None if commit.schema is None else _columns_out(commit.schema, commit.schema_id),
        "time": commit.time_us,
        "high": commit.event_time_high_us,
        "adds": [_file_out(file) for file in commit.adds],
        "removes": [file.path for file in commit.removes],
        "dead": [_letters_out(file) for file in commit.dead_letters],
    }


def _columns_out(schema: pa.Schema, schema_id: int) -> list[Any]:
    return [base64.b64encode(schema.serialize().to_pybytes()).decode(), schema_id]


def _columns_in(raw: list[Any] | None) -> tuple[pa.Schema, int] | None:
    """None in a record of an older release."""
    return None if raw is None else (pa.ipc.read_schema(pa.py_buffer(base64.b64decode(raw[0]))), raw[1])


def _commit_in(raw: dict[str, Any]) -> Committed:
    schema, schema_id = _columns_in(raw.get("columns")) or (None, 0)
    commit = Commit(
        id="",
        kind=CommitKind(raw["kind"]),
        schema=schema,
        schema_id=schema_id,
        time_us=raw["time"],
        adds=tuple(DataFile(*fields) for fields in raw["adds"]),
        removes=tuple(DataFile(path, 0, 0) for path in raw["removes"]),
        dead_letters=tuple(DeadLetterFile(*fields) for fields in raw["dead"]),
        event_time_high_us=raw["high"],
    )
    return Committed(raw["version"], commit)


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
