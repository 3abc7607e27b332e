"""Delta checkpoints with our own record beside them, and cutting the log.

Log clean-up drops commitInfo, where the writers' records live, so a base of ours is a pair: `_millrace/writers/<version>.json` (all that
we know of that version) and Delta's checkpoint of the same version (all that a Delta reader needs). The record is written first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable

from millrace.failpoints import failpoint
from svc_storage.adapters.delta import codec
from svc_storage.adapters.delta.place import LOG, RECORDS, Place
from svc_storage.ports import Snapshot, Version

HINT = "_last_checkpoint"
_SUFFIX = ".checkpoint.parquet"
_WRITERS = f"{RECORDS}/writers"


def write(place: Place, table: DeltaTable, snapshot: Snapshot, removed_us: Mapping[str, int]) -> None:
    """Blocking. `table` must stand at `snapshot.version`. Durable when it returns."""
    if table.version() != snapshot.version:
        raise ValueError(f"handle at {table.version()}, snapshot of {snapshot.version}")
    place.put(_record(snapshot.version), codec.encode_snapshot(snapshot, removed_us))
    failpoint("storage.after_writers_record")
    table.create_checkpoint()
    failpoint("storage.after_checkpoint_write")
    place.keep([f"{LOG}/{_name(snapshot.version)}", f"{LOG}/{HINT}"], [LOG])
    failpoint("storage.after_checkpoint_fsync")


def versions(place: Place) -> Sequence[Version]:
    """Versions with both halves, ascending."""
    there = {version_of(name) for name in checkpoints_among(place.names(LOG))}
    return sorted(there & _recorded(place))


def load(place: Place, version: Version) -> tuple[Snapshot, Mapping[str, int]]:
    """Raises ValueError when the record is torn, OSError when it is gone."""
    return codec.decode_snapshot(place.read(_record(version)))


def checkpoints_among(names: Sequence[str]) -> Sequence[str]:
    """Delta's checkpoint files among those of a log, ours or not, ascending."""
    return sorted(name for name in names if name.endswith(_SUFFIX) and name[:20].isdigit())


def version_of(name: str) -> Version:
    """The version in a checkpoint's or log file's name."""
    return int(name[:20])


def trim(place: Place, floor: Version) -> None:
    """Blocking. Forgets all below `floor`, lowest first, so that a kill leaves a log without a gap above what is left."""
    names = place.names(LOG)
    doomed = [f"{LOG}/{name}" for name in names if name[:20].isdigit() and version_of(name) < floor]
    for start in range(0, len(doomed), place.deletes_at_once):
        place.delete(doomed[start : start + place.deletes_at_once])
        failpoint("storage.during_trim")
    place.delete([f"{LOG}/{name}" for name in names if ".json#" in name])
    place.keep([], [LOG])
    place.delete([_record(version) for version in sorted(_recorded(place)) if version < floor])


def strip(place: Place, versions: Sequence[Version]) -> None:
    """Blocking. Takes the files that had left out of Delta's checkpoints: only who removes files by the newest one asks for them, and in a
    table that is compacted all day they take more room than the rest of the log."""
    for version in versions:
        name = f"{LOG}/{_name(version)}"
        with contextlib.suppress(FileNotFoundError):
            actions = pq.read_table(pa.BufferReader(place.read(name)))
            kept = actions.filter(pc.is_null(actions["remove"]))
            if kept.num_rows < actions.num_rows:
                out = pa.BufferOutputStream()
                pq.write_table(kept, out)
                place.put(name, out.getvalue().to_pybytes())


def drop(place: Place, versions: Sequence[Version]) -> None:
    """Blocking. The record goes first: without it a checkpoint is no base of ours."""
    place.delete([_record(version) for version in versions])
    failpoint("storage.during_drop")
    place.delete([f"{LOG}/{_name(version)}" for version in versions])


def _recorded(place: Place) -> set[Version]:
    names = (name.partition(".json") for name in place.names(_WRITERS))
    return {int(stem) for stem, suffix, rest in names if suffix and not rest and stem.isdigit()}


def _record(version: Version) -> str:
    return f"{_WRITERS}/{version}.json"


def _name(version: Version) -> str:
    return f"{version:020d}{_SUFFIX}"
