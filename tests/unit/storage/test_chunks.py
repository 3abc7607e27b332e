"""Column chunks without a server: what goes in comes out, limits hold, statistics are Parquet's own, damage is named."""

from __future__ import annotations

import io
import os
import zlib

import pyarrow as pa
import pytest

from millrace.errors import ChecksumMismatch
from svc_storage.adapters.cassandra import chunks, codec
from svc_storage.adapters.cassandra.chunks import Chunk, Group, Index
from svc_storage.adapters.cassandra.objects import PIECE_BYTES, split
from svc_storage.adapters.parquet import write_parquet
from svc_storage.domain.reading.statistics import StatisticsBuilder
from svc_storage.ports import BatchMark, Commit, CommitKind, DataFile, DeadLetterFile, Snapshot, WriterState

SCHEMA = pa.schema(
    [
        pa.field("n", pa.int64(), nullable=False),
        pa.field("x", pa.float64()),
        pa.field("text", pa.string()),
        pa.field("nothing", pa.string()),
        pa.field("at", pa.timestamp("us", "UTC")),
        pa.field("many", pa.list_(pa.int32())),
    ]
)


def rows(first: int, count: int, text: str = "row") -> pa.RecordBatch:
    numbers = range(first, first + count)
    return pa.RecordBatch.from_pydict(
        {
            "n": list(numbers),
            "x": [float("nan") if n % 1_000 == 7 else n / 3 for n in numbers],
            "text": [None if n % 5 == 0 else f"{text} {n % 91}" for n in numbers],
            "nothing": [None] * count,
            "at": pa.array(list(numbers), pa.timestamp("us", "UTC")),
            "many": [[n, None] for n in numbers],
        },
        schema=SCHEMA,
    )


def test_groups_are_bounded_in_rows_and_bytes() -> None:
    found = list(chunks.row_groups([rows(0, 50_000), rows(50_000, 50_000), rows(100_000, 1)], SCHEMA))
    assert [table.num_rows for table in found] == [65_536, 34_465]
    assert pa.concat_tables(found).column("n").to_pylist() == list(range(100_001))
    wide = pa.RecordBatch.from_pydict({"b": [os.urandom(5 << 20) for _ in range(7)]})
    sizes = [table.nbytes for table in chunks.row_groups([wide], wide.schema)]
    assert sum(sizes) >= 35 << 20
    assert max(sizes) <= chunks.GROUP_BYTES
    assert list(chunks.row_groups([], SCHEMA)) == []


def test_a_cell_larger_than_a_group_is_a_group_of_its_own() -> None:
    wide = pa.RecordBatch.from_pydict({"b": [os.urandom(20 << 20), b"", os.urandom(20 << 20)]})
    found = list(chunks.row_groups([wide], wide.schema))
    assert pa.concat_tables(found).equals(pa.Table.from_batches([wide]))


@pytest.mark.parametrize("counts", [(1,), (70_000, 3), (5, 5, 200_000)])
def test_statistics_are_those_of_parquet(counts: tuple[int, ...]) -> None:
    batches = [rows(at * 1_000, count, text="" if at == 3 else "row") for at, count in enumerate(counts)]
    _, parquet = write_parquet(io.BytesIO(), batches, SCHEMA, level=1)
    ours = StatisticsBuilder(SCHEMA)
    for table in chunks.row_groups(batches, SCHEMA):
        chunks.note(ours, table)
    assert ours.to_json() == parquet


def test_an_index_comes_back() -> None:
    groups = tuple(Group(65_536, tuple(Chunk(2, 900, 300, (1, 2)) for _ in SCHEMA)) for _ in range(50))
    index = Index(SCHEMA, groups, 50 * 65_536)
    assert Index.decode(index.encode()) == index
    whole = Index(SCHEMA, (), 3, 10, b"the packed rows")
    assert Index.decode(whole.encode()) == whole
    for broken in (b"", index.encode()[:40], b"\0" * 60):
        with pytest.raises(ValueError, match=r"index|cut"):
            Index.decode(broken)


def test_every_flipped_bit_of_a_chunk_is_named() -> None:
    packed, raw = chunks.pack(chunks.column_of(pa.Table.from_batches([rows(0, 300)]), 2))
    chunk = Chunk(1, raw, len(packed), (zlib.crc32(packed),))
    assert chunks.checked("f", 4, 2, chunk, [packed]).to_pylist() == rows(0, 300).column("text").to_pylist()
    for at in range(0, len(packed), 7):
        damaged = bytearray(packed)
        damaged[at] ^= 1 << at % 8
        with pytest.raises(ChecksumMismatch, match="piece 0 of chunk 4/2 of the table's file f is damaged"):
            chunks.checked("f", 4, 2, chunk, [bytes(damaged)])
    with pytest.raises(ChecksumMismatch, match="is missing"):
        chunks.checked("f", 4, 2, chunk, [None])


def test_no_piece_is_above_a_mebibyte() -> None:
    content = os.urandom((5 << 20) + 1)
    pieces = split(content)
    assert (b"".join(pieces), max(map(len, pieces))) == (content, PIECE_BYTES)
    assert split(b"") == []


def test_commits_and_states_come_back() -> None:
    file = DataFile("l0-ä.parquet", 5, 3, 0, 7, 11, '{"numRecords":3}')
    writer = WriterState(3, 5, {"f": '"'}, None, (BatchMark(0, 5, 77),), "ada", "sources/x")
    commit = Commit(
        id="c", kind=CommitKind.MERGE, time_us=2, adds=(file,), removes=(file,), writers={"w/1": writer}, schema=SCHEMA,
        schema_id=4, dead_letters=(DeadLetterFile("d", 1, 2, 3),), event_time_high_us=9, trace_context="00",
    )  # fmt: skip
    assert codec.decode_commit(codec.encode_commit(commit)) == commit
    snapshot = Snapshot(version=9, time_us=1, schema=SCHEMA, files={"a": file}, writers={"w": writer})
    assert codec.decode_base(codec.encode_base(snapshot, {"gone": 5})) == (snapshot, {"gone": 5})
    content = bytearray(codec.encode_commit(commit))
    content[-1] ^= 1
    for broken in (b"", bytes(content), b"\x07" + bytes(content)[1:], codec.encode_base(snapshot, {})):
        with pytest.raises(ValueError, match=r"cut|checksum|form|commit"):
            codec.decode_commit(broken)
