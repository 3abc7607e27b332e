"""Columns that change while rows come in (contracts.md W7), on every backend, without the network."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from millrace import errors, failpoints
from svc_storage.domain.definition import TableDefinition, define
from svc_storage.domain.maintenance.restoring import restore
from svc_storage.domain.opened import OpenTable
from svc_storage.domain.reading.pinned import pin
from svc_storage.domain.reading.predicates import Compare, Op
from svc_storage.domain.reading.rows import RowReader
from svc_storage.domain.reading.scans import Scan
from svc_storage.domain.reading.tokens import Place
from svc_storage.domain.reading.watch import Landed, WatchWish, watch
from svc_storage.domain.upkeep import DAY_US, Policy, Upkeep
from svc_storage.domain.writing import compaction
from svc_storage.domain.writing.appending import AppendStream, Incoming, SchemaAccepted
from svc_storage.domain.writing.group import Ack
from svc_storage.domain.writing.schema_change import SchemaChange
from svc_storage.ports import CommitKind, Snapshot, Version
from tests.contract.storage.backends import NAME, Rig, read
from tests.contract.storage.test_maintenance import Heard
from tests.contract.storage.test_upkeep import Readers

COLUMNS = pa.schema(
    [
        pa.field("id", pa.int32(), nullable=False),
        pa.field("ratio", pa.float32()),
        pa.field("money", pa.decimal128(6, 2)),
        pa.field("tags", pa.list_(pa.int16())),
    ]
)
WIDER = {
    "id": pa.int64(),
    "ratio": pa.float64(),
    "money": pa.decimal128(12, 4),
    "tags": pa.list_(pa.int64()),
}
NOTE = pa.field("note", pa.string(), metadata={"description": "said by the clerk"})
_marks = itertools.count(1)


def change(base: int = 1, **more: Any) -> SchemaChange:
    return SchemaChange(base=base, **more)


def batch(first: int, count: int, schema: pa.Schema = COLUMNS, **columns: Any) -> pa.RecordBatch:
    ids = range(first, first + count)
    values: dict[str, list[Any]] = {
        "id": list(ids),
        "ratio": [value / 2 for value in ids],
        "money": [Decimal(value % 1000) / 4 for value in ids],
        "tags": [[value, None] for value in ids],
    }
    values |= {name: [given] * count for name, given in columns.items()}
    chosen = [field for field in schema if field.name in values]
    return pa.RecordBatch.from_arrays([pa.array(values[f.name], f.type) for f in chosen], schema=pa.schema(chosen))


async def send(stream: AppendStream, rows: pa.RecordBatch) -> None:
    offset = stream._expected
    await stream.append(Incoming(offset=offset, rows=rows, crc32=next(_marks), size=rows.nbytes))


async def table_of(rig: Rig, columns: pa.Schema = COLUMNS, **more: Any) -> OpenTable:
    return await rig.create(define(columns, **more))


def rows_at(table: OpenTable, snapshot: Snapshot) -> list[dict[str, Any]]:
    found = read(table, snapshot).drop_columns(["_ingested_at"]).to_pylist()
    return sorted(found, key=lambda row: row["id"])


async def events(stream: AppendStream) -> list[Ack | SchemaAccepted]:
    found = []
    while event := await stream.next_event(0.01):
        found.append(event)
    return found


def columns_of(snapshot: Snapshot) -> Mapping[str, str]:
    return {column.name: str(column.type) for column in snapshot.schema if not column.name.startswith("_")}


async def test_a_new_column_is_null_in_older_rows(rig: Rig) -> None:
    table = await table_of(rig)
    stream = await rig.open()
    await send(stream, batch(0, 2))
    await stream.change_schema(change(additions=(NOTE,)))
    changed_in = table.head
    await send(stream, batch(2, 2, pa.schema([*COLUMNS, NOTE]), note="n"))
    await send(stream, batch(4, 1))
    await stream.finish()
    found = rows_at(table, table.versions.head)
    assert [row["note"] for row in found] == [None, None, "n", "n", None]
    assert (table.versions.head.schema_id, table.definition.schema_id) == (2, 2)
    told = await events(stream)
    assert [type(event) for event in told] == [Ack, SchemaAccepted] or isinstance(told[0], Ack)
    accepted = next(event for event in told if isinstance(event, SchemaAccepted))
    assert accepted.schema.names == [*COLUMNS.names, "note"]
    field = accepted.schema.field("note")
    assert (field.metadata[b"millrace.field_id"], field.metadata[b"description"]) == (b"5", b"said by the clerk")
    (commit,) = [one.commit for one in table.commits_in(changed_in - 1, changed_in)]
    assert (commit.kind, commit.rows_added, commit.rows_removed) == (CommitKind.SCHEMA, 0, 0)
    old = await table.snapshot(changed_in - 1)
    assert "note" not in columns_of(old)
    assert "note" not in rows_at(table, old)[0]


async def test_wider_types_keep_every_value(rig: Rig) -> None:
    table = await table_of(rig)
    stream = await rig.open()
    await send(stream, batch(0, 3))
    await stream.settle()
    before = rows_at(table, table.versions.head)
    old_version = table.head
    await stream.change_schema(change(widenings=WIDER))
    assert rows_at(table, table.versions.head) == before
    wide = pa.schema([pa.field(f.name, WIDER[f.name], f.nullable) for f in COLUMNS])
    await send(stream, batch(2**40, 1, wide))
    await send(stream, batch(3, 1))  # the narrower types stay welcome
    await stream.finish()
    found = rows_at(table, table.versions.head)
    assert [row["id"] for row in found] == [0, 1, 2, 3, 2**40]
    assert found[3] == {"id": 3, "ratio": 1.5, "money": Decimal("0.75"), "tags": [3, None]}
    assert found[4]["tags"] == [2**40, None]
    assert [column.type for column in table.definition.schema] == list(WIDER.values())
    old = await table.snapshot(old_version)
    assert (rows_at(table, old), columns_of(old)["id"]) == (before, "int32")
    table = await rig.restart()
    assert rows_at(table, table.versions.head) == found
    assert rows_at(table, await table.snapshot(old_version)) == before


async def test_an_empty_table_widens_too(rig: Rig) -> None:
    table = await table_of(rig)
    stream = await rig.open()
    await stream.change_schema(change(widenings=WIDER, additions=(NOTE,), relaxations=("id",)))
    table = await rig.restart()
    assert columns_of(table.versions.head)["id"] == "int64"
    assert table.versions.head.schema.field("id").nullable


async def test_not_null_is_relaxed(rig: Rig) -> None:
    table = await table_of(rig)
    stream = await rig.open()
    await send(stream, batch(0, 1))
    await stream.change_schema(change(relaxations=("id",)))
    await send(stream, batch(1, 1).drop_columns(["id"]))
    await stream.finish()
    assert sorted(read(table, table.versions.head).column("id").to_pylist(), key=str) == [0, None]


async def test_other_writers_go_on_and_hear_of_it(rig: Rig) -> None:
    table = await table_of(rig)
    quiet, busy = await rig.open("quiet", interval_s=60), await rig.open("busy")
    await send(quiet, batch(0, 2))  # judged by the old columns, committed after the change
    await busy.change_schema(change(additions=(NOTE,), widenings={"id": pa.int64()}))
    await send(quiet, batch(2, 1))
    await quiet.settle()
    (ack,) = await events(quiet)
    assert isinstance(ack, Ack)
    assert ack.schema is not None
    assert ack.schema.names[-1] == "note"
    await send(quiet, batch(3, 1))
    await quiet.finish()
    assert [getattr(event, "schema", None) for event in await events(quiet)] == [None]
    assert [(row["id"], row["note"]) for row in rows_at(table, table.versions.head)] == [(n, None) for n in range(4)]


async def test_an_unknown_column_is_never_dropped(rig: Rig) -> None:
    await table_of(rig)
    stream = await rig.open()
    with pytest.raises(errors.SchemaMismatch):
        await send(stream, batch(0, 1, pa.schema([*COLUMNS, NOTE]), note="n"))


async def test_one_of_two_changes_at_once_wins(rig: Rig) -> None:
    table = await table_of(rig)
    one, two = await rig.open("one"), await rig.open("two")
    results = await asyncio.gather(
        one.change_schema(change(additions=(pa.field("a", pa.int64()),))),
        two.change_schema(change(additions=(pa.field("b", pa.int64()),))),
        return_exceptions=True,
    )
    refused = [result for result in results if result is not None]
    assert [type(found) for found in refused] == [errors.SchemaConflict]
    assert table.definition.schema_id == 2
    loser = one if results[0] is refused[0] else two
    missing = "a" if loser is one else "b"
    await loser.change_schema(change(2, additions=(pa.field(missing, pa.int64()),)))
    assert table.definition.schema.names[-2:] in (["a", "b"], ["b", "a"])


async def test_what_holds_already_is_accepted(rig: Rig) -> None:
    table = await table_of(rig)
    one, two = await rig.open("one"), await rig.open("two")
    wish = change(additions=(NOTE,), widenings={"id": pa.int64()})
    await asyncio.gather(one.change_schema(wish), two.change_schema(wish))
    head = table.head
    await two.change_schema(wish)
    assert (table.head, table.definition.schema_id) == (head, 2)


async def test_reads_across_a_change(rig: Rig) -> None:
    """after_version, watching, pruning."""
    table = await table_of(rig)
    stream = await rig.open()
    await send(stream, batch(0, 3))
    await stream.settle()
    start = table.head
    await send(stream, batch(3, 3))
    await stream.change_schema(change(widenings=WIDER, additions=(NOTE,)))
    await send(stream, batch(6, 3, pa.schema([*COLUMNS, NOTE]), note="n"))
    await stream.finish()

    def rows(pinned: Any) -> list[Any]:
        reader = RowReader(pinned, Place(0, 0), Place(len(pinned.files), 0))
        chunks = iter(reader.next, None)
        return [row for chunk in chunks for row in chunk.batch.to_pylist()]

    added = await pin(table, Scan(NAME, after_version=start), table.head)
    assert [(row["id"], row["note"]) for row in rows(added)] == [
        *((n, None) for n in (3, 4, 5)),
        *((n, "n") for n in (6, 7, 8)),
    ]
    for column, value in (("id", 4), ("ratio", 2.0), ("money", Decimal(1))):
        wanted = await pin(table, Scan(NAME, predicate=Compare(column, Op.GE, value)), table.head)
        assert [row["id"] for row in rows(wanted)] == [4, 5, 6, 7, 8], column
    said = await pin(table, Scan(NAME, predicate=Compare("note", Op.EQ, "n")), table.head)
    assert [row["id"] for row in rows(said)] == [6, 7, 8]
    news = watch(table, WatchWish(after=start, data_changes_only=True))
    told = []
    async for one in news:
        if isinstance(one, Landed):
            told.append((one.event.kind, one.event.rows_added, one.schema is not None and "note" in one.schema.names))
            if one.event.number == table.head:
                break
    await news.aclose()
    assert told == [(CommitKind.APPEND, 3, False), (CommitKind.APPEND, 3, True)]


async def test_compaction_takes_files_of_several_schemas(rig: Rig) -> None:
    table = await table_of(rig)
    stream = await rig.open()
    for number in range(16):
        await send(stream, batch(number, 1))
        await stream.settle()
    await stream.change_schema(change(additions=(NOTE,), widenings={"id": pa.int64()}))
    for number in range(16, 32):
        await send(stream, batch(number, 1, pa.schema([*COLUMNS, NOTE]), note="n"))
        await stream.settle()
    before = rows_at(table, table.versions.head)
    merged = compaction.pick(table.versions.head.files.values())
    assert merged is not None
    await compaction.merge(table.committer, merged, commit_id="c", now_us=rig.clock.now_us())
    assert len(table.versions.head.files) == 1
    assert rows_at(table, table.versions.head) == before


async def test_the_change_survives_checkpoint_and_cut_and_old_plans_keep_their_columns(rig: Rig) -> None:
    table = await table_of(rig)
    stream = await rig.open()
    await send(stream, batch(0, 1))
    await stream.settle()
    planned = table.head
    table.note_planned(planned)
    await stream.change_schema(change(widenings={"id": pa.int64()}, additions=(NOTE,)))
    await send(stream, batch(1, 1))
    await stream.finish()
    tending = Upkeep(rig.opened, rig.catalog, rig.backend, Readers(), rig.clock, Policy(keep_log_us=0, keep_versions=0))
    await tending.checkpoint(table)
    assert await tending.trim(table) is not None
    old = await table.snapshot(planned)
    assert (columns_of(old)["id"], "note" in columns_of(old), old.schema_id) == ("int32", False, 1)
    table = await rig.restart()
    assert (table.definition.schema_id, table.definition.schema.names[-1]) == (2, "note")
    assert [row["id"] for row in rows_at(table, table.versions.head)] == [0, 1]


async def test_the_catalogs_row_follows_the_log(rig: Rig) -> None:
    table = await table_of(rig)
    etag = table.row.etag
    stream = await rig.open()
    await stream.change_schema(change(additions=(NOTE,)))
    assert (await rig.tables.get(NAME)).definition.schema.names[-1] == "note"
    await Upkeep(rig.opened, rig.catalog, rig.backend, Readers(), rig.clock, Policy()).tend(table)
    row = await rig.catalog.get_table(NAME)
    assert row is not None
    assert row.etag != etag
    assert TableDefinition.from_json(row.body).schema.equals(table.definition.schema)


@pytest.mark.parametrize("point", ["storage.before_schema", "storage.after_schema"])
async def test_a_kill_around_the_commit_leaves_a_nullable_column_or_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    await table_of(rig)
    stream = await rig.open()
    await send(stream, batch(0, 1))
    monkeypatch.setattr(failpoints, "_points", failpoints.parse(f"{point}=error"))
    with pytest.raises(failpoints.InjectedFault):
        await stream.change_schema(change(additions=(NOTE,)))
    monkeypatch.setattr(failpoints, "_points", {})
    table = await rig.restart()
    assert ("note" in table.definition.schema.names) == (point == "storage.after_schema")
    again = await rig.open(epoch=1)
    assert again.opened.next_offset == 1
    await again.change_schema(change(additions=(NOTE,)))  # made for the old columns, and holds or is done now
    await send(again, batch(1, 1, pa.schema([*COLUMNS, NOTE]), note="n"))
    await again.finish()
    assert [(row["id"], row["note"]) for row in rows_at(table, table.versions.head)] == [(0, None), (1, "n")]
    assert table.definition.schema_id == 2


async def test_update_table_changes_columns_in_the_same_ways(rig: Rig) -> None:
    table = await table_of(rig, primary_key=("id",))
    stream = await rig.open()
    await send(stream, batch(0, 2))
    await stream.settle()
    definition = table.definition
    wished = pa.schema([*(field.with_type(WIDER[field.name]) for field in definition.schema), NOTE])
    request = rig.request("update")
    state = await rig.tables.update(NAME, definition, schema=wished, etag=table.row.etag, request=request)
    assert (state.definition.schema.names[-1], state.definition.schema_id) == ("note", 2)
    version: Version = table.head
    again = await rig.tables.update(NAME, definition, schema=wished, etag=table.row.etag, request=request)
    assert (again.row, table.head) == (state.row, version)
    for name, wrong in {
        "fields[0].type": wished.set(0, wished.field(0).with_type(pa.int32())),
        "fields": wished.remove(1),
        "fields[0].nullable": wished.set(0, wished.field(0).with_nullable(True)),
        "fields[5].nullable": wished.append(pa.field("more", pa.int64(), False)),
    }.items():
        with pytest.raises(errors.FieldInvalid) as refused:
            await rig.tables.update(NAME, definition, schema=wrong, etag=state.row.etag, request=rig.request(name))
        assert refused.value.field == f"table.schema.{name}"
    assert table.head == version


async def test_an_older_version_comes_back_in_the_newest_columns(rig: Rig) -> None:
    table = await table_of(rig)
    stream = await rig.open()
    await send(stream, batch(0, 2))
    await stream.settle()
    old = table.head
    before = rows_at(table, table.versions.head)
    await stream.change_schema(change(widenings=WIDER, additions=(NOTE,)))
    await send(stream, batch(2, 2))
    await stream.finish()
    await restore(table, old, Heard(), rig.clock, run="r/", keep_files_us=DAY_US)
    assert rows_at(table, table.versions.head) == [{**row, "note": None} for row in before]
    assert (table.definition.schema_id, columns_of(table.versions.head)["id"]) == (2, "int64")
    narrow = (await table.snapshot(old)).files.keys() & table.versions.head.files.keys()
    assert table.files.widens_in_place or not narrow, "what other readers would refuse is written anew"


async def test_a_rehearsal_changes_nothing(rig: Rig) -> None:
    table = await table_of(rig)
    stream = await rig.open(validate_only=True)
    await stream.change_schema(change(additions=(NOTE,)))
    await send(stream, batch(0, 1, pa.schema([*COLUMNS, NOTE]), note="n"))
    await stream.finish()
    assert (table.definition.schema_id, table.versions.head.row_count) == (1, 0)
