"""An entry of the log is what delta-rs would have written: its own reader finds the same in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import CommitProperties, DeltaTable
from deltalake.transaction import AddAction

from svc_storage.adapters import disk
from svc_storage.adapters.delta import checkpoint, codec
from svc_storage.adapters.delta.place import LOG, NO_HOOKS, LocalPlace, log_name
from svc_storage.ports import Commit, CommitKind, DataFile, WriterState

SCHEMA = pa.schema([("a", pa.int64())])
STATS = '{"numRecords":2,"minValues":{"a":1},"maxValues":{"a":2},"nullCount":{"a":0}}'
ODD = "a b%2F{}^`]\"><#|*?é=~!$&'()+,:;@\\x.parquet"


@pytest.fixture
def place(tmp_path: Path) -> LocalPlace:
    made = LocalPlace(tmp_path / "t")
    made.create(SCHEMA, codec.creation("t", 1))
    return made


def append(place: LocalPlace, version: int, commit: Commit) -> bool:
    return place.put_new(f"{LOG}/{log_name(version)}", codec.encode_log_file(version, commit, now_ms=5))


def files_of(table: DeltaTable) -> list[dict[str, Any]]:
    return pa.table(table.get_add_actions(flatten=True)).sort_by("path").to_pylist()


def commit(kind: CommitKind, **parts: Any) -> Commit:
    return Commit(id=f"{kind}", kind=kind, time_us=7, **parts)


def test_delta_reads_files_and_writers(place: LocalPlace) -> None:
    writers = {"w": WriterState(epoch=2, next_offset=2)}
    kept, gone = DataFile("l0-a.parquet", 10, 2, stats_json=STATS), DataFile("l0-b.parquet", 11, 2, stats_json=STATS)
    assert append(place, 1, commit(CommitKind.APPEND, adds=(kept, gone), writers=writers))
    whole = DataFile("l1-c.parquet", 12, 2, level=1, modified_ms=9, stats_json=STATS)
    assert append(place, 2, commit(CommitKind.COMPACT, adds=(whole,), removes=(gone,)))

    table = place.handle()
    found = files_of(table)
    assert [(one["path"], one["size_bytes"], one["num_records"], one["max.a"]) for one in found] == [
        ("l0-a.parquet", 10, 2, 2),
        ("l1-c.parquet", 12, 2, 2),
    ]
    assert table.transaction_version("w") == codec.txn_version(writers["w"])
    assert table.transaction_version("millrace.compact") == 2
    assert place.handle(1).version() == 1


def test_paths_are_written_as_delta_writes_them(place: LocalPlace) -> None:
    place.handle().create_write_transaction(
        [AddAction(ODD, 1, {}, 0, True, STATS)],
        "append",
        place.handle().schema(),
        commit_properties=CommitProperties(max_commit_retries=0),
        post_commithook_properties=NO_HOOKS,
    )
    theirs = [json.loads(line) for line in place.read(f"{LOG}/{log_name(1)}").splitlines()]
    ours = codec.encode_log_file(1, commit(CommitKind.APPEND, adds=(DataFile(ODD, 1, 2, stats_json=STATS),)), now_ms=0)
    (path,) = (json.loads(line)["add"]["path"] for line in ours.splitlines() if b'"add"' in line[:6])
    assert path == next(line["add"]["path"] for line in theirs if "add" in line)
    assert codec.decode_log_file(1, ours).commit.adds[0].path == ODD


@pytest.mark.parametrize("stats", ['{"maxValues":{"a":NaN}}', '{"maxValues":{"a":-Infinity}}', "", "{"])
def test_statistics_that_are_no_json_are_refused(stats: str) -> None:
    poison = commit(CommitKind.APPEND, adds=(DataFile("l0-a.parquet", 1, 1, stats_json=stats),))
    with pytest.raises(ValueError, match=r"statistics|Expecting"):
        codec.encode_log_file(1, poison, now_ms=0)


def test_the_first_wins_and_stays_as_it_was(tmp_path: Path) -> None:
    assert disk.put_new(tmp_path / "x.json", b"one")
    assert not disk.put_new(tmp_path / "x.json", b"two")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("x.json", b"one")]


def test_an_older_checkpoint_keeps_the_table_and_not_what_left(place: LocalPlace) -> None:
    gone, kept = DataFile("l0-a.parquet", 10, 2, stats_json=STATS), DataFile("l0-b.parquet", 11, 2, stats_json=STATS)
    assert append(place, 1, commit(CommitKind.APPEND, adds=(gone, kept), writers={"w": WriterState(1, 4)}))
    assert append(place, 2, commit(CommitKind.APPEND, removes=(gone,), writers={"w": WriterState(1, 5)}))
    before = place.handle(2)
    before.create_checkpoint()
    checkpoint.strip(place, [2, 7])
    place.delete([f"{LOG}/{log_name(version)}" for version in range(3)])
    after = place.handle(2)
    assert after.file_uris() == before.file_uris() != []
    assert files_of(after) == files_of(before) != []
    assert after.transaction_version("w") == codec.txn_version(WriterState(1, 5))
    assert after.metadata().configuration == before.metadata().configuration
    (name,) = checkpoint.checkpoints_among(place.names(LOG))
    assert pq.read_table(pa.BufferReader(place.read(f"{LOG}/{name}")))["remove"].null_count == 4  # adds, txn, …
