"""Reads that are under way: the file list of a version that was handed out in the last 6 h outlives its log entry.

Which versions were planned is kept in memory and, at most every few seconds, in the record `plans/noted.json`, so that a restart
forgets no more than those seconds. The lists themselves are written just before the log is cut (`plans/<version>.json`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from svc_storage.ports import Clock, DataFile, DeadLetterFile, Snapshot, TableFiles, Version

KEPT_US = 6 * 3600 * 1_000_000
_NOTED = "plans/noted.json"


class Plans:
    def __init__(self, files: TableFiles, clock: Clock) -> None:
        self._files, self._clock = files, clock
        self._noted: dict[Version, int] = {}  # version -> last planned, µs
        self._changed = False

    async def start(self) -> None:
        """Reads what an earlier process noted."""
        if content := await self._files.get_record(_NOTED):
            self._noted = {int(version): time_us for version, time_us in json.loads(content).items()}
        self._forget_old()

    def note(self, version: Version) -> None:
        now_us = self._clock.now_us()
        if now_us - self._noted.get(version, 0) > 60_000_000:
            self._noted[version] = now_us
            self._changed = True

    async def keep_notes(self) -> None:
        """Makes the notes survive a restart; cheap when nothing changed."""
        if self._changed:
            self._changed = False
            self._forget_old()
            await self._files.put_record(_NOTED, json.dumps(self._noted).encode())

    def below(self, floor: Version) -> Sequence[Version]:
        """Versions below `floor` whose plans are still under way."""
        self._forget_old()
        return sorted(version for version in self._noted if version < floor)

    async def save(self, snapshot: Snapshot) -> None:
        """Before its log entry goes."""
        content = {
            "time": snapshot.time_us,
            "high": snapshot.event_time_high_us,
            "files": [
                [f.path, f.size_bytes, f.row_count, f.level, f.added_in, f.modified_ms, f.stats_json]
                for f in snapshot.files.values()
            ],
            "dead": [[file.path, file.size_bytes, file.row_count, file.added_in] for file in snapshot.dead_letters],
        }
        await self._files.put_record(f"plans/{snapshot.version}.json", json.dumps(content).encode())

    async def load(self, version: Version, head: Snapshot) -> Snapshot | None:
        """The kept file list of a version that the log has lost, None when there is none. Columns are the head's."""
        content = await self._files.get_record(f"plans/{version}.json") if version >= 0 else None
        if content is None:
            return None
        raw = json.loads(content)
        files = [DataFile(*fields) for fields in raw["files"]]
        return replace(
            head,
            version=version,
            time_us=raw["time"],
            files={file.path: file for file in files},
            dead_letters=tuple(DeadLetterFile(*fields) for fields in raw["dead"]),
            event_time_high_us=raw["high"],
        )

    def _forget_old(self) -> None:
        oldest_us = self._clock.now_us() - KEPT_US
        self._noted = {version: time_us for version, time_us in self._noted.items() if time_us >= oldest_us}
