"""Delta checkpoints with our own record beside them, and cutting the log.

Log clean-up drops commitInfo, where the writers' records live, so a base of ours is a pair: `_millrace/writers/<version>.json` (all that
we know of that version) and Delta's checkpoint of the same version (all that a Delta reader needs). The record is written first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable

from millrace.failpoints import failpoint
from svc_storage.adapters import disk
from svc_storage.adapters.delta import codec
from svc_storage.adapters.delta.files import LOG, RECORDS
from svc_storage.ports import Snapshot, Version

HINT = "_last_checkpoint"
_SUFFIX = ".checkpoint.parquet"


def write(root: Path, table: DeltaTable, snapshot: Snapshot, removed_us: Mapping[str, int]) -> None:
    """Blocking. `table` must stand at `snapshot.version`. Durable when it returns."""
    if table.version() != snapshot.version:
        raise ValueError(f"handle at {table.version()}, snapshot of {snapshot.version}")
    disk.put(_record(root, snapshot.version), codec.encode_snapshot(snapshot, removed_us))
    failpoint("storage.after_writers_record")
    table.create_checkpoint()
    failpoint("storage.after_checkpoint_write")
    disk.fsync_file(_checkpoint(root, snapshot.version))
    disk.fsync_file(root / LOG / HINT)
    disk.fsync_folder(root / LOG)
    failpoint("storage.after_checkpoint_fsync")


def versions(root: Path) -> Sequence[Version]:
    """Versions with both halves, ascending."""
    records = {int(path.stem) for path in (root / RECORDS / "writers").glob("*.json") if path.stem.isdigit()}
    return sorted(version for version in records if _checkpoint(root, version).exists())


def load(root: Path, version: Version) -> tuple[Snapshot, Mapping[str, int]]:
    """Raises ValueError when the record is torn, OSError when it is gone."""
    return codec.decode_snapshot(_record(root, version).read_bytes())


def is_sound(path: Path) -> bool:
    """A checkpoint that was being written when the power went has no footer."""
    try:
        pq.read_metadata(path)
    except (OSError, pa.ArrowInvalid):
        return False
    return True


def checkpoints_on_disk(root: Path) -> Sequence[Path]:
    """Delta's checkpoint files, ours or not, ascending."""
    return sorted((root / LOG).glob(f"*{_SUFFIX}"))


def version_of(path: Path) -> Version:
    """The version in a checkpoint's or log file's name."""
    return int(path.name[:20])


def trim(root: Path, floor: Version) -> None:
    """Blocking. Forgets all below `floor`, lowest first, so that a kill leaves a log without a gap above what is left."""
    log = root / LOG
    doomed = sorted(path for path in log.iterdir() if path.name[:20].isdigit() and version_of(path) < floor)
    for path in doomed:
        path.unlink(missing_ok=True)
        failpoint("storage.during_trim")
    for path in log.glob("*.json#*"):
        path.unlink(missing_ok=True)
    disk.fsync_folder(log)
    with contextlib.suppress(FileNotFoundError):
        for path in (root / RECORDS / "writers").glob("*.json"):
            if path.stem.isdigit() and int(path.stem) < floor:
                path.unlink(missing_ok=True)


def _record(root: Path, version: Version) -> Path:
    return root / RECORDS / "writers" / f"{version}.json"


def _checkpoint(root: Path, version: Version) -> Path:
    return root / LOG / f"{version:020d}{_SUFFIX}"
