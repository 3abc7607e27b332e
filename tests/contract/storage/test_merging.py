"""MergeRows on every backend, without the network: what is in the table is what a dict would hold."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pyarrow as pa
import pytest

from millrace import errors
from svc_storage.domain.definition import ColumnRule, TableDefinition, define
from svc_storage.domain.maintenance.writers import page
from svc_storage.domain.opened import Opened, OpenTable
from svc_storage.domain.reading.pinned import pin
from svc_storage.domain.reading.scans import Scan
from svc_storage.domain.upkeep import Policy, Upkeep
from svc_storage.domain.versions import summarise
from svc_storage.domain.writing import compaction, merging
from svc_storage.domain.writing.appending import AppendStream, Incoming
from svc_storage.domain.writing.group import Ack, Pending
from svc_storage.domain.writing.schema_change import SchemaChange
from svc_storage.ports import MERGED, CommitKind, Version
from tests.contract.storage.backends import NAME, Rig, read

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("seq", pa.int64()),
    ]
)
Line = tuple[str, int, str | None, int | None]
"""operation, id, name, seq"""


class NoReaders:
    async def slowest(self, table_uid: str) -> Version | None:
        return None

    async def of_table(self, table_uid: str) -> Sequence[tuple[str, Version]]:
        return []


def defined(*, sequence: str = "seq") -> TableDefinition:
    return define(SCHEMA, primary_key=("id",), sequence_column=sequence)


def up(key: int, name: str = "x", seq: int = 0) -> Line:
    return ("UPSERT", key, name, seq)


def gone(key: int, seq: int = 0) -> Line:
    return ("DELETE", key, None, seq)


def changes(lines: Sequence[Line], definition: TableDefinition) -> pa.RecordBatch:
    schema = merging.wire_schema(definition, "op")
    ops, ids, names, seqs = zip(*lines, strict=True) if lines else ((), (), (), ())
    columns = [
        pa.array(ids, pa.int64()),
        pa.array(names, pa.string()),
        pa.array(seqs, pa.int64()),
        pa.array(ops, pa.string()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def frame(offset: int, lines: Sequence[Line], definition: TableDefinition) -> Incoming:
    batch = changes(lines, definition)
    return Incoming(offset=offset, rows=batch, crc32=hash(tuple(lines)) & 0xFFFF, size=batch.nbytes)


async def merger(rig: Rig, writer: str = "w", **more: object) -> AppendStream:
    return await rig.open(writer, op_column="op", **more)


async def merge(stream: AppendStream, table: OpenTable, *groups: Sequence[Line]) -> Ack:
    """Each group a commit; the sum of what was told."""
    offset = stream.next_offset
    total: Ack | None = None
    for lines in groups:
        await stream.append(frame(offset, lines, table.definition))
        offset += len(lines)
        await stream.settle()
        told = await stream.next_event(1)
        assert isinstance(told, Ack)
        total = told.after(total)
    assert total is not None
    return total


def held(table: OpenTable) -> dict[int, tuple[str, int]]:
    rows = read(table, table.versions.head).to_pylist()
    found = {row["id"]: (row["name"], row["seq"]) for row in rows}
    assert len(found) == len(rows), "a key names one row"
    return found


async def test_rows_are_replaced_and_deleted(rig: Rig) -> None:
    table = await rig.create(defined())
    stream = await merger(rig)
    first = await merge(stream, table, [up(1, "a"), up(2, "b"), up(3, "c")])
    assert (first.rows_written, first.rows_updated, first.rows_deleted, first.rows_ignored) == (3, 0, 0, 0)
    then = await merge(stream, table, [up(2, "B", 1), gone(3), gone(9), up(4, "d"), up(4, "D")])
    assert (then.rows_written, then.rows_updated, then.rows_deleted, then.rows_ignored) == (2, 1, 1, 2)
    assert held(table) == {1: ("a", 0), 2: ("B", 1), 4: ("D", 0)}
    kinds = [found.commit.kind for found in table.commits_in(0, table.head)]
    assert kinds == [CommitKind.FENCE, CommitKind.MERGE, CommitKind.MERGE]
    event = summarise(table.commits_in(table.head - 1, table.head))
    assert (event.rows_added, event.rows_removed) == (2, 2)
    assert MERGED not in event.positions
    assert [writer.id for writer in page(table, after="", limit=10)] == ["w"]


async def test_an_older_row_is_ignored(rig: Rig) -> None:
    table = await rig.create(defined())
    stream = await merger(rig)
    await merge(stream, table, [up(1, "new", 5), up(2, "kept", 5), gone(2, 4)])
    told = await merge(stream, table, [up(1, "old", 4), gone(1, 3), up(2, "same", 5)])
    assert (told.rows_updated, told.rows_ignored) == (1, 2)
    assert held(table) == {1: ("new", 5), 2: ("same", 5)}


async def test_a_delete_forgets_its_sequence_and_a_marked_row_does_not(rig: Rig) -> None:
    """The limit of docs/adr/042, and what to do instead."""
    table = await rig.create(defined())
    stream = await merger(rig)
    await merge(stream, table, [up(1, "a", 5), up(2, "b", 5)], [gone(1, 9), up(2, "(deleted)", 9)])
    ack = await merge(stream, table, [up(1, "late", 7), up(2, "late", 7)])
    assert held(table) == {1: ("late", 7), 2: ("(deleted)", 9)}
    assert ack.rows_ignored == 1
    within = await merge(stream, table, [gone(3, 9), up(3, "late", 7)])  # one commit: the order is the sequence's
    assert 3 not in held(table)
    assert within.rows_written == 0


async def test_without_a_sequence_the_last_one_counts(rig: Rig) -> None:
    table = await rig.create(defined(sequence=""))
    stream = await merger(rig)
    await merge(stream, table, [up(1, "a", 9), up(1, "b", 1)], [up(1, "c", 0), gone(1), up(1, "d", -1)])
    assert held(table) == {1: ("d", -1)}


async def test_writers_share_a_commit(rig: Rig) -> None:
    table = await rig.create(defined())
    one, other = await merger(rig, "one"), await merger(rig, "other")
    head = table.head
    await one.append(frame(0, [up(1, "one", 1), up(2)], table.definition))
    await other.append(frame(0, [up(1, "other", 2), up(3)], table.definition))
    await asyncio.gather(one.finish(), other.finish())
    assert table.head == head + 1
    assert held(table) == {1: ("other", 2), 2: ("x", 0), 3: ("x", 0)}
    told = await one.next_event(1)
    assert isinstance(told, Ack)
    assert (told.rows_written, told.rows_ignored) == (1, 1)


async def test_a_table_is_appended_to_or_merged_into(rig: Rig) -> None:
    table = await rig.create(define(SCHEMA, primary_key=("id",)))
    appender = await rig.open("appender")
    await appender.append(Incoming(offset=0, rows=read_only(1, 1, 2), crc32=0, size=10))
    with pytest.raises(errors.WriterModeConflict):
        await merger(rig)
    await appender.finish()
    appender.close()
    stream = await merger(rig)
    with pytest.raises(errors.WriterModeConflict):
        await rig.open("appender")
    told = await merge(stream, table, [up(1, "one")])  # both rows of the key go
    assert (told.rows_written, told.rows_updated) == (1, 1)
    assert {key: name for key, (name, _) in held(table).items()} == {1: "one", 2: "read"}
    stream.close()
    with pytest.raises(errors.WriterModeConflict):
        await rig.open("appender")
    table = await rig.restart()
    with pytest.raises(errors.WriterModeConflict):
        await rig.open("appender")


def read_only(*keys: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict(
        {"id": list(keys), "name": ["read"] * len(keys), "seq": [0] * len(keys)}, schema=SCHEMA
    )


async def test_a_table_without_a_key_cannot_be_merged_into(rig: Rig) -> None:
    await rig.create()
    with pytest.raises(errors.NoPrimaryKey):
        await merger(rig)


async def test_bad_rows_are_named(rig: Rig) -> None:
    definition = define(
        SCHEMA,
        primary_key=("id",),
        sequence_column="seq",
        rules={"id": ColumnRule(minimum=0), "name": ColumnRule(allowed=("x",))},
    )
    table = await rig.create(definition)
    stream = await merger(rig, keep_bad=True)
    lines: list[Line] = [
        up(1),
        ("REPLACE", 2, "x", 0),
        up(3, "y"),
        ("UPSERT", 4, None, 0),
        ("DELETE", -1, None, 0),
        ("DELETE", 5, None, None),
        gone(6),
        up(7),
    ]
    told = await merge(stream, table, lines)
    assert [(row.index, row.field, row.reason) for row in told.sample] == [
        (1, "op", "ENUM"),
        (2, "name", "ENUM"),
        (3, "name", "NOT_NULL"),
        (4, "id", "RANGE"),
        (5, "seq", "NOT_NULL"),
    ]
    assert (told.rows_written, told.rows_dead, told.rows_ignored, told.next_offset) == (2, 5, 1, 8)
    assert sum(file.row_count for file in table.versions.head.dead_letters) == 5
    strict = await merger(rig, "strict")
    with pytest.raises(errors.RowInvalid):
        await strict.append(frame(0, lines, table.definition))


async def test_duplicates_and_restarts_store_once(rig: Rig) -> None:
    table = await rig.create(defined())
    stream = await merger(rig)
    await merge(stream, table, [up(1, "a", 1)], [gone(1, 2)], [up(2, "b", 1)])
    table = await rig.restart()
    again = await merger(rig, epoch=1)
    assert again.opened.next_offset == 3
    await again.append(frame(0, [up(1, "a", 1)], table.definition))
    await again.append(frame(3, [up(3, "c", 1)], table.definition))
    await again.finish()
    assert held(table) == {2: ("b", 1), 3: ("c", 1)}


async def test_compaction_between_merges(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "FAN_IN", 4)
    table = await rig.create(defined())
    upkeep = Upkeep(rig.opened, rig.catalog, rig.backend, NoReaders(), rig.clock, Policy())
    stream = await merger(rig)
    model: dict[int, tuple[str, int]] = {}
    for number in range(12):
        lines = [up(key % 17, f"{number}", number) for key in range(number, number + 5)] + [
            gone((number * 3) % 17, number)
        ]
        await merge(stream, table, lines)
        for op, key, name, seq in lines:
            if op == "DELETE":
                model.pop(key, None)
            else:
                model[key] = (str(name), int(seq or 0))
        if number % 4 == 3:
            await upkeep.compact(table)
    assert held(table) == model


async def test_a_compaction_meanwhile_is_taken_in(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process swaps the files between the decision and the commit: it is decided anew."""
    monkeypatch.setattr(compaction, "FAN_IN", 4)
    table = await rig.create(defined())
    stream = await merger(rig)
    await merge(stream, table, *([up(key, "a", 1)] for key in range(6)))
    other = Opened(rig.catalog, rig.backend, rig.leases, rig.clock)
    theirs = await other.table(NAME)
    real, raced = merging.write_files, list[Version]()

    async def racing(into: merging.Into, entries: Sequence[Pending], *, time_us: int) -> merging.Merged:
        written = await real(into, entries, time_us=time_us)
        if not raced:
            await Upkeep(other, rig.catalog, rig.backend, NoReaders(), rig.clock, Policy()).compact(theirs)
            raced.append(theirs.head)
        return written

    monkeypatch.setattr(merging, "write_files", racing)
    told = await merge(stream, table, [up(1, "b", 2), gone(2, 2), up(9, "c", 1)])
    assert (told.rows_written, told.rows_updated, told.rows_deleted) == (2, 1, 1)
    assert held(table) == {0: ("a", 1), 1: ("b", 2), 3: ("a", 1), 4: ("a", 1), 5: ("a", 1), 9: ("c", 1)}
    kinds = [found.commit.kind for found in table.commits_in(table.head - 2, table.head)]
    assert kinds == [CommitKind.COMPACT, CommitKind.MERGE]
    await other.close()


async def test_other_columns_meanwhile(rig: Rig) -> None:

    table = await rig.create(defined())
    stream = await merger(rig)
    await merge(stream, table, [up(1, "a", 1), up(2, "b", 1)])
    await stream.change_schema(
        SchemaChange(base=table.definition.schema_id, additions=(pa.field("more", pa.string()),))
    )
    offset = stream.next_offset
    schema = merging.wire_schema(table.definition, "op")
    batch = pa.RecordBatch.from_arrays(
        [
            pa.array([2, 3]),
            pa.array(["B", "c"]),
            pa.array([2, 1]),
            pa.array([None, "m"], pa.string()),
            pa.array(["UPSERT"] * 2),
        ],
        schema=schema,
    )
    await stream.append(Incoming(offset=offset, rows=batch, crc32=1, size=10))
    await stream.settle()
    rows = sorted(read(table, table.versions.head).to_pylist(), key=lambda row: row["id"])
    assert [(row["id"], row["name"], row["more"]) for row in rows] == [(1, "a", None), (2, "B", None), (3, "c", "m")]


async def test_validate_only_keeps_nothing(rig: Rig) -> None:
    table = await rig.create(defined())
    stream = await merger(rig, validate_only=True)
    await stream.append(frame(0, [up(1)], table.definition))
    await stream.finish()
    assert table.head == 0


async def test_a_change_feed_says_that_it_is_none(rig: Rig) -> None:

    table = await rig.create(defined())
    stream = await merger(rig)
    await merge(stream, table, [up(1)])
    with pytest.raises(errors.ChangesNotAppendOnly):
        await pin(table, Scan(NAME, after_version=0), table.head)
