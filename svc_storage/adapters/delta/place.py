"""Where the log of one Delta table lies: a folder of a disk here, a prefix of an object store in `adapters/s3/place.py`.

Names are relative to the table and use `/`. Everything is blocking and belongs on a worker thread. What the driver or the disk cannot do
is raised as it comes, or as a MillraceError; `failure` says what the former means.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties

from millrace import errors
from svc_storage.adapters import disk
from svc_storage.ports import Version

LOG = "_delta_log"
RECORDS = "_millrace"
QUARANTINE = "_millrace/quarantine"
NO_HOOKS = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)
_CONFIGURATION = {
    "delta.enableExpiredLogCleanup": "false",  # the writers' records live in the log: only we cut it
    "delta.checkpointInterval": "100000",  # we checkpoint
    "delta.deletedFileRetentionDuration": "interval 24 hours",
}


def log_name(version: Version) -> str:
    """The name of a version's log file, in the log's folder."""
    return f"{version:020d}.json"


class Place(Protocol):
    """`deletes_at_once`: how many names one `delete` may take before it is as slow as several. `whole`: whatever can be seen is whole
    and durable, and others may write here too; so there is nothing to settle, and nothing may be tidied up on sight."""

    deletes_at_once: int
    whole: bool

    def handle(self, version: Version | None = None) -> DeltaTable:
        """The table at a version (None: as it is now), opened anew."""

    def create(self, schema: pa.Schema, properties: CommitProperties) -> None:
        """Version 0, where there is none."""

    def names(self, folder: str) -> Sequence[str]:
        """The names of the files directly in a folder, sorted; a missing folder has none."""

    def exists(self, name: str) -> bool: ...

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError."""

    def read_all(self, names: Sequence[str]) -> Iterator[bytes]:
        """The same of many, in order."""

    def put(self, name: str, content: bytes) -> None:
        """Replaces a file, whole or not at all; durable when it returns."""

    def put_new(self, name: str, content: bytes) -> bool:
        """Puts a file that nobody put yet, whole or not at all; `content` has an id in it that is the caller's alone. False: one is there.

        Durable only after `keep`. Raises OutcomeUnknown when it may still happen."""

    def keep(self, names: Sequence[str], folders: Sequence[str]) -> None:
        """Makes durable: the bytes of these files, then what is in these folders and what is not ("": the table's own)."""

    def delete(self, names: Sequence[str]) -> None:
        """In this order. A missing one is no error; durable only after `keep` of the folder."""

    def move_aside(self, name: str) -> None:
        """Takes a file out of the way into the quarantine, durably."""

    def is_torn(self, name: str) -> bool:
        """Whether a Parquet file was being written when the power went."""

    def failure(self, error: Exception) -> errors.MillraceError | None:
        """What an error of a handle, or an OSError, says about the place. None: nothing, the fault lies in what was asked for."""


class LocalPlace:
    """A table's folder. deltalake never fsyncs: `keep` does."""

    deletes_at_once = 1
    whole = False

    def __init__(self, root: Path) -> None:
        self._root = root

    def handle(self, version: Version | None = None) -> DeltaTable:
        return DeltaTable(self._root, version)

    def create(self, schema: pa.Schema, properties: CommitProperties) -> None:
        first = self._root / LOG / log_name(0)
        if first.exists() and first.stat().st_size == 0:  # the power went before its fsync
            first.unlink()
        if not first.exists():
            disk.make_folder(self._root)
            create_table(str(self._root), schema, properties)
        self.keep([f"{LOG}/{first.name}"], [LOG, ""])

    def names(self, folder: str) -> Sequence[str]:
        try:
            return sorted(path.name for path in (self._root / folder).iterdir())
        except FileNotFoundError:
            return []

    def exists(self, name: str) -> bool:
        return (self._root / name).exists()

    def read(self, name: str) -> bytes:
        return (self._root / name).read_bytes()

    def read_all(self, names: Sequence[str]) -> Iterator[bytes]:
        return map(self.read, names)

    def put(self, name: str, content: bytes) -> None:
        disk.put(self._root / name, content)

    def put_new(self, name: str, content: bytes) -> bool:
        return disk.put_new(self._root / name, content)

    def keep(self, names: Sequence[str], folders: Sequence[str]) -> None:
        for name in names:
            disk.fsync_file(self._root / name)
        for folder in folders:
            disk.fsync_folder(self._root / folder)

    def delete(self, names: Sequence[str]) -> None:
        for name in names:
            (self._root / name).unlink(missing_ok=True)

    def move_aside(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            disk.move_aside(self._root / name, self._root / QUARANTINE)

    def is_torn(self, name: str) -> bool:
        try:
            pq.read_metadata(self._root / name)
        except (OSError, pa.ArrowInvalid):
            return True
        return False

    def failure(self, error: Exception) -> errors.MillraceError | None:
        if isinstance(error, OSError):
            return disk.from_os_error(error)
        if "No space left" in str(error):
            return errors.DiskFull("the storage disk is full", retry_after_ms=5_000)
        return None


def create_table(
    url: str, schema: pa.Schema, properties: CommitProperties, options: dict[str, str] | None = None
) -> None:
    """Version 0 as Millrace wants it. Raises what deltalake raises when there is one."""
    DeltaTable.create(
        url,
        schema,
        mode="error",
        configuration=_CONFIGURATION,
        storage_options=options,
        commit_properties=properties,
        post_commithook_properties=NO_HOOKS,
    )
