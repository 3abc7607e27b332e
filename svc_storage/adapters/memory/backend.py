"""Tables in memory. A backend object is the "disk": what was committed survives reopening on the same object."""

from __future__ import annotations

import io
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa

from millrace import errors
from millrace.failpoints import failpoint
from svc_storage.adapters.parquet import write_parquet
from svc_storage.adapters.parquet_rows import batches_of
from svc_storage.ports import (
    Commit,
    CommitCapabilities,
    Committed,
    DataFile,
    Direct,
    DirectUrl,
    LogTail,
    LogTrimmed,
    Snapshot,
    Version,
    VersionTaken,
)


@dataclass(slots=True)
class _Disk:
    """One table. `bases`: what can be opened, by version; `commits`: those after the lowest base."""

    bases: dict[Version, tuple[Snapshot, Mapping[str, int]]]
    commits: dict[Version, Commit] = field(default_factory=dict)
    files: dict[str, tuple[bytes, int]] = field(default_factory=dict)

    @property
    def head(self) -> Version:
        return next(reversed(self.commits), max(self.bases))


class MemoryBackend:
    name = "memory"

    def __init__(self, *, shared: bool = False) -> None:
        """`shared`: several storages of this process use it, as replicas use one store."""
        self.shared = shared
        self._tables: dict[str, _Disk] = {}

    async def create(self, uid: str, schema: pa.Schema, *, time_us: int) -> None:
        if uid not in self._tables:
            self._tables[uid] = _Disk({0: (Snapshot(version=0, time_us=time_us, schema=schema), {})})

    def open(self, uid: str) -> tuple[MemoryLog, MemoryFiles]:
        disk = self._tables[uid]
        return MemoryLog(disk), MemoryFiles(disk)

    async def drop(self, uid: str) -> None:
        self._tables.pop(uid, None)

    async def list_uids(self) -> Sequence[str]:
        return sorted(self._tables)


class MemoryLog:
    capabilities = CommitCapabilities(conditional=True, checkpoints=True, trim=True)

    def __init__(self, disk: _Disk) -> None:
        self._disk = disk

    async def recover(self) -> LogTail:
        lowest = min(self._disk.bases)
        base, removed_us = self._disk.bases[lowest]
        return LogTail(base, tuple(await self.read_after(lowest)), removed_us)

    async def append(self, commit: Commit, *, after: Version) -> Version:
        failpoint("storage.before_commit")
        taken = self._disk.commits.get(after + 1)
        if taken is not None and taken.id != commit.id:
            raise VersionTaken
        if after != self._disk.head and taken is None:
            raise VersionTaken
        adds = tuple(replace(file, added_in=after + 1) for file in commit.adds)
        dead = tuple(replace(file, added_in=after + 1) for file in commit.dead_letters)
        self._disk.commits[after + 1] = replace(commit, adds=adds, dead_letters=dead)
        failpoint("storage.after_commit_fsync")
        return after + 1

    async def read_after(self, version: Version) -> Sequence[Committed]:
        commits = self._disk.commits
        found: list[Committed] = []
        while (commit := commits.get(version + 1 + len(found))) is not None:
            found.append(Committed(version + 1 + len(found), commit))
        if not found and version < min(self._disk.bases):
            raise LogTrimmed
        return found

    async def checkpoint(self, snapshot: Snapshot, removed_us: Mapping[str, int]) -> None:
        self._disk.bases[snapshot.version] = (snapshot, dict(removed_us))

    async def checkpoints(self) -> Sequence[Version]:
        return sorted(self._disk.bases)

    async def drop_checkpoints(self, versions: Sequence[Version]) -> None:
        for version in versions:
            self._disk.bases.pop(version, None)

    async def trim(self, floor: Version) -> None:
        for version in [version for version in self._disk.bases if version < floor]:
            del self._disk.bases[version]
        for version in [version for version in self._disk.commits if version <= floor]:
            del self._disk.commits[version]

    async def close(self) -> None:
        """There is no handle."""


class MemoryFiles:
    direct = Direct.NONE
    widens_in_place = True

    def __init__(self, disk: _Disk) -> None:
        self._disk = disk

    async def write(
        self, path: str, batches: Iterable[pa.RecordBatch], schema: pa.Schema, *, level: int = 0
    ) -> DataFile:
        sink = io.BytesIO()
        rows, stats = write_parquet(sink, batches, schema, level=level)
        content = sink.getvalue()
        self._disk.files[path] = (content, time.time_ns() // 1000)
        return DataFile(path, len(content), rows, level, 0, time.time_ns() // 1_000_000, stats)

    def batches(
        self, file: DataFile, schema: pa.Schema, first: int = 0, last: int | None = None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        return batches_of(self._open, file, schema, first, last)

    async def urls(self, paths: Sequence[str]) -> Sequence[DirectUrl]:
        raise errors.BackendCapability("tables in memory have no files to open", hint="use ReadRows")

    async def put_record(self, name: str, content: bytes) -> None:
        self._disk.files[f"_millrace/{name}"] = (content, time.time_ns() // 1000)

    async def get_record(self, name: str) -> bytes | None:
        found = self._disk.files.get(f"_millrace/{name}")
        return found[0] if found else None

    async def list_paths(self) -> Sequence[tuple[str, int]]:
        return [(path, modified_us) for path, (_, modified_us) in self._disk.files.items()]

    async def remove(self, paths: Sequence[str]) -> None:
        for path in paths:
            self._disk.files.pop(path, None)

    def _open(self, path: str) -> pa.NativeFile:
        try:
            return pa.BufferReader(self._disk.files[path][0])
        except KeyError as missing:
            raise errors.FileMissing(f"file {path} of the table is missing") from missing
