"""LookupRows on every backend: the newest row of a key, whatever wrote it and however files were rewritten since."""

from __future__ import annotations

import datetime as dt
import decimal
import random
from collections.abc import Sequence

import pyarrow as pa
import pytest

from millrace import errors
from svc_storage.domain.definition import TableDefinition, define
from svc_storage.domain.reading.keys import key_schema
from svc_storage.domain.reading.lookup import MAX_KEYS, Found, Lookups, LookupWish
from svc_storage.domain.upkeep import Policy, Upkeep
from svc_storage.domain.writing import compaction
from svc_storage.domain.writing.appending import Incoming
from svc_storage.ports import Version
from tests.contract.storage.backends import NAME, Rig

SCHEMA = pa.schema([pa.field("id", pa.int64()), pa.field("name", pa.string()), pa.field("seq", pa.int32())])


class NoReaders:
    async def slowest(self, table_uid: str) -> Version | None:
        return None

    async def of_table(self, table_uid: str) -> Sequence[tuple[str, Version]]:
        return []


def defined(*key: str, sequence: str = "", schema: pa.Schema = SCHEMA) -> TableDefinition:
    return define(schema, primary_key=key, sequence_column=sequence)


class Book:
    """Appends commits of rows, looks keys up."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.lookups = Lookups(rig.opened, rig.pool)
        self.upkeep = Upkeep(rig.opened, rig.catalog, rig.backend, NoReaders(), rig.clock, Policy())

    async def commit(self, *batches: pa.RecordBatch) -> Version:
        stream = await self.rig.open()
        offset = stream.opened.next_offset
        for batch in batches:
            await stream.append(Incoming(offset=offset, rows=batch, crc32=0, size=batch.nbytes))
            offset += batch.num_rows
            await stream.settle()
        await stream.finish()
        return stream.last_version

    async def lines(self, *lines: tuple[object, ...]) -> Version:
        return await self.commit(batch(lines))

    async def find(self, keys: Sequence[Sequence[object]], **wish: object) -> Found:
        target = await self.lookups.pin(LookupWish(table=NAME, **wish))  # type: ignore[arg-type]
        columns = [
            pa.array(values, field.type) for values, field in zip(zip(*keys, strict=True), target.keys, strict=True)
        ]
        return await self.lookups.find(target, pa.RecordBatch.from_arrays(columns, schema=target.keys))


def batch(lines: Sequence[tuple[object, ...]], schema: pa.Schema = SCHEMA) -> pa.RecordBatch:
    columns = list(zip(*lines, strict=True))
    return pa.RecordBatch.from_arrays(
        [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)], schema=schema
    )


def told(found: Found) -> list[dict[str, object] | None]:
    rows = iter(found.rows.to_pylist())
    answer = [next(rows) if there else None for there in found.found]
    assert next(rows, None) is None
    return answer


async def test_rows_come_in_the_order_of_the_keys(rig: Rig) -> None:
    await rig.create(defined("id"))
    book = Book(rig)
    await book.lines((1, "a", 0), (2, "b", 0))
    await book.lines((3, "c", 0), (None, "no key", 0))
    found = await book.find([[3], [9], [1], [3], [None]], columns=("name",))
    assert told(found) == [{"name": "c"}, None, {"name": "a"}, {"name": "c"}, None]
    assert found.target.snapshot.version == (await rig.opened.table(NAME)).head


async def test_the_row_committed_last_wins(rig: Rig) -> None:
    await rig.create(defined("id"))
    book = Book(rig)
    first = await book.lines((1, "old", 9), (1, "newer", 8))
    await book.lines((2, "other", 0))
    second = await book.lines((1, "newest", 1))
    assert told(await book.find([[1]])) == [{"id": 1, "name": "newest", "seq": 1}]
    assert told(await book.find([[1]], version=first)) == [{"id": 1, "name": "newer", "seq": 8}]
    table = await rig.opened.table(NAME)
    assert table.head == second
    with pytest.raises(errors.VersionInFuture):
        await book.find([[1]], version=second + 1)


async def test_the_highest_sequence_wins_and_null_is_the_lowest(rig: Rig) -> None:
    await rig.create(defined("id", sequence="seq"))
    book = Book(rig)
    await book.lines((1, "null", None), (2, "two", 5))
    await book.lines((1, "first", 1), (2, "late", 4))
    await book.lines((1, "equal", 1), (3, "only", None))
    assert [row and row["name"] for row in told(await book.find([[1], [2], [3]]))] == ["equal", "two", "only"]


async def test_compaction_changes_no_answer(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "FAN_IN", 4)
    table = await rig.create(defined("id"))
    book = Book(rig)
    chance = random.Random(7)
    newest: dict[int, str] = {}
    for number in range(13):
        lines = [(chance.randrange(40), f"{number}-{place}", 0) for place in range(10)]
        newest.update({line[0]: line[1] for line in lines})
        await book.lines(*lines)
        if number % 5 == 4:
            await book.upkeep.compact(table)
    found = told(await book.find([[key] for key in range(40)]))
    assert {key: row["name"] for key, row in enumerate(found) if row} == newest


async def test_only_files_that_may_hold_a_key_are_opened(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    table = await rig.create(defined("id"))
    book = Book(rig)
    for start in range(0, 50, 10):
        await book.lines(*((start + place, "x", 0) for place in range(10)))
    opened: list[str] = []
    batches = table.files.batches

    def noting(file: object, *more: object) -> object:
        opened.append(file.path)  # type: ignore[attr-defined]
        return batches(file, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(table.files, "batches", noting)
    assert told(await book.find([[23]]))[0] is not None
    assert len(set(opened)) == 1
    opened.clear()
    assert told(await book.find([[24], [99]])) == [{"id": 24, "name": "x", "seq": 0}, None]
    assert len(opened) == 1  # the index is known: only the row is read


KINDS: dict[str, tuple[pa.DataType, list[object]]] = {
    "int8": (pa.int8(), [-128, 0, 127]),
    "float": (pa.float64(), [0.0, float("nan"), -1.5, float("inf")]),
    "bool": (pa.bool_(), [False, True]),
    "text": (pa.string(), ["", "a", "ab", "b" * 100, "äöü", "\x00"]),
    "binary": (pa.binary(), [b"", b"\x00", b"\x00\x00", b"a"]),
    "decimal": (pa.decimal128(38, 4), [decimal.Decimal("-1.2000"), decimal.Decimal(0), decimal.Decimal(10) ** 30]),
    "date": (pa.date32(), [dt.date(1, 1, 1), dt.date(2024, 2, 29)]),
    "time": (
        pa.timestamp("us", "UTC"),
        [dt.datetime(1970, 1, 1, tzinfo=dt.UTC), dt.datetime(2024, 1, 1, 0, 0, 0, 1, tzinfo=dt.UTC)],
    ),
    "local": (pa.timestamp("us"), [dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31)]),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_of_key(rig: Rig, kind: str) -> None:
    of, values = KINDS[kind]
    schema = pa.schema([pa.field("part", pa.string()), pa.field("k", of), pa.field("n", pa.int64())])
    await rig.create(define(schema, primary_key=("k", "part")))
    book = Book(rig)
    lines = [(part, value, number) for number, (part, value) in enumerate((p, v) for p in "xy" for v in values)]
    await book.commit(batch(lines, schema))
    found = await book.find([[value, part] for part, value, _ in lines] + [[values[0], "z"]], columns=("n",))
    assert [row and row["n"] for row in told(found)] == [*range(len(lines)), None]


async def test_a_negative_zero_is_zero(rig: Rig) -> None:
    schema = pa.schema([pa.field("k", pa.float64()), pa.field("n", pa.int64())])
    await rig.create(define(schema, primary_key=("k",)))
    book = Book(rig)
    await book.commit(batch([(-0.0, 1)], schema))
    assert told(await book.find([[0.0]], columns=("n",))) == [{"n": 1}]


async def test_what_is_refused(rig: Rig) -> None:
    await rig.create(defined())
    book = Book(rig)
    for table in (NAME, NAME + "$dead_letters"):
        with pytest.raises(errors.NoPrimaryKey):
            await book.lookups.pin(LookupWish(table=table))
    other = "namespaces/default/tables/other"
    await rig.create(defined("id"), other)
    with pytest.raises(errors.FieldInvalid, match="nothing"):
        await book.lookups.pin(LookupWish(table=other, columns=("nothing",)))
    target = await book.lookups.pin(LookupWish(table=other))
    for count in (0, MAX_KEYS + 1):
        with pytest.raises(errors.FieldInvalid):
            await book.lookups.find(
                target, pa.RecordBatch.from_arrays([pa.array(range(count), pa.int64())], schema=target.keys)
            )


def test_a_key_has_its_own_order() -> None:
    assert key_schema(SCHEMA, ("seq", "id")).names == ["seq", "id"]
