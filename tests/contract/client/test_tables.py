"""Tables through the client: rows of every shape in, exactly those rows out."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from decimal import Decimal
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from millrace import errors
from millrace.client import Client
from millrace.storage.v1 import storage_pb2
from millrace.types.v1 import types_pb2
from millrace.wire.values import value_to_proto

COLUMNS = {
    "id": "int64",
    "name": "string?",
    "price": "decimal(10,2)?",
    "at": "timestamp[UTC]?",
    "tags": "list<string?>?",
}
AT = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
ROWS = [
    {"id": 1, "name": "a", "price": Decimal("1.20"), "at": AT, "tags": ["x", None]},
    {"id": 2, "name": None, "price": None, "at": None, "tags": []},
]


def spelled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: row["id"])


async def test_rows_go_in_as_dicts_and_come_out_as_they_were(client: Client) -> None:
    table = await client.create_table("t", COLUMNS)
    totals = await table.append(ROWS)
    assert totals.rows_written == 2
    result = await table.read().result()
    assert spelled(result.to_pylist()) == ROWS
    assert result.versions == {"namespaces/default/tables/t": totals.version}
    assert (await table.schema()).names == list(COLUMNS)


@pytest.mark.parametrize("shape", ["arrow", "batch", "pandas", "polars", "columns", "batches", "reader"])
async def test_rows_of_every_shape_are_taken(client: Client, shape: str) -> None:
    table = await client.create_table("t", {"id": "int64", "name": "string?"})
    arrow = pa.table({"id": [1, 2], "name": ["a", None]})
    rows: Any = {
        "arrow": arrow,
        "batch": arrow.to_batches()[0],
        "pandas": pd.DataFrame({"id": [1, 2], "name": ["a", None]}),
        "polars": pl.DataFrame({"id": [1, 2], "name": ["a", None]}),
        "columns": {"id": [1, 2], "name": ["a", None]},
        "batches": arrow.to_batches(max_chunksize=1),
        "reader": arrow.to_reader(),
    }[shape]
    await table.append(rows)
    read = table.read()
    assert spelled((await read.to_arrow()).to_pylist()) == arrow.to_pylist()
    assert (await read.to_pandas())["id"].sum() == 3
    assert (await read.to_polars())["id"].sum() == 3


async def test_reads_project_filter_limit_and_pin(client: Client) -> None:
    table = await client.create_table("t", {"id": "int64", "name": "string?"})
    first = await table.append({"id": range(100), "name": [None if n % 10 == 0 else str(n % 3) for n in range(100)]})
    await table.append({"id": [1000], "name": ["late"]})
    big = await table.read(columns=["id"], where=[("id", ">=", 95), ("name", "in", ["1", "2"])]).to_arrow()
    assert sorted(big.column("id").to_pylist()) == [95, 97, 98]
    assert (await table.read(where=[("name", "is null")]).to_arrow()).num_rows == 10
    assert (await table.read(limit=7).to_arrow()).num_rows == 7
    assert (await table.read(version=first.version).to_arrow()).num_rows == 100
    assert (await table.read(after_version=first.version).to_arrow()).to_pylist() == [{"id": 1000, "name": "late"}]
    with pytest.raises(errors.VersionInFuture):
        await table.read(version=10_000).to_arrow()


async def test_refusals_say_why(client: Client) -> None:
    with pytest.raises(errors.TableNotFound):
        await client.table("nowhere").read().to_arrow()
    table = await client.create_table("t", {"id": "int64"})
    with pytest.raises(errors.ResourceExists):
        await client.create_table("t", {"id": "int64"})
    with pytest.raises(errors.SchemaMismatch, match="extra"):
        await table.append({"id": [1], "extra": [2]})
    with pytest.raises(errors.SchemaMismatch, match="id"):
        await table.append({"id": ["seven"]})
    with pytest.raises(errors.FieldInvalid, match="int46"):
        await client.create_table("u", {"id": "int46"})
    assert (await table.read().to_arrow()).num_rows == 0


async def test_tables_are_listed_and_deleted(client: Client) -> None:
    for name in ("b", "a"):
        await client.create_table(name, {"id": "int64"})
    assert [table.name.rpartition("/")[2] for table in await client.list_tables()] == ["a", "b"]
    await client.delete_table("a")
    assert [table.name.rpartition("/")[2] for table in await client.list_tables()] == ["b"]


async def test_rows_that_break_the_contract_become_dead_letters(client: Client) -> None:
    rule = storage_pb2.ColumnRule(column="id", minimum=value_to_proto(0))
    table = await client.create_table("t", {"id": "int64"}, rules=[rule])
    totals = await table.append({"id": [1, -1, 2]}, dead_letter=True)
    assert (totals.rows_written, totals.rows_dead_lettered) == (2, 1)
    dead = await client.table("t$dead_letters").read().to_arrow()
    assert dead.num_rows == 1
    with pytest.raises(errors.RowInvalid):
        await table.append({"id": [-5]})


async def test_a_writer_goes_on_from_the_position_it_committed(client: Client) -> None:
    table = await client.create_table("t", {"id": "int64"})
    async with table.writer("importer") as writer:
        assert writer.opened.position is None
        await writer.append({"id": [1, 2, 3]}, position={"file": "30"})
        await writer.flush()
        await writer.append({"id": [4]}, position={"file": "40"})
    async with table.writer("importer") as writer:
        assert writer.opened.position == types_pb2.Position(positions={"file": "40"})
        assert writer.opened.next_offset == 4
        assert writer.opened.epoch == 2
    assert (await table.read().to_arrow()).num_rows == 4


async def test_an_older_writer_is_fenced(client: Client) -> None:
    table = await client.create_table("t", {"id": "int64"})
    old = table.writer("w")
    await old.__aenter__()
    await old.append({"id": [1]})
    await old.flush()
    async with table.writer("w") as new:
        await new.append({"id": [2]})

    async def go_on() -> None:
        await old.append({"id": [3]})
        await old.flush()

    with pytest.raises(errors.WriterFenced):
        await go_on()
    await old.aclose()
    assert sorted((await table.read().to_arrow()).column("id").to_pylist()) == [1, 2]


async def test_a_large_table_is_read_whole_in_parallel_and_in_order_alone(client: Client) -> None:
    table = await client.create_table("t", {"id": "int64", "text": "string"})
    rows = 200_000
    async with table.writer("w") as writer:
        for at in range(0, rows, 50_000):
            await writer.append({"id": range(at, at + 50_000), "text": ["x" * 40] * 50_000})
            await writer.flush()
    together = (await table.read(parallel=4).to_arrow()).column("id").to_pylist()
    assert sorted(together) == list(range(rows))
    async with table.read(parallel=1).open() as read:
        sizes = [batch.num_rows async for batch in read]
    assert sum(sizes) == rows
    assert len(sizes) > 4


async def test_versions_are_watched_as_they_land(client: Client) -> None:
    table = await client.create_table("t", {"id": "int64"})
    seen: list[int] = []
    rows = 0

    async def watch() -> None:
        nonlocal rows
        async with contextlib.aclosing(table.watch()) as versions:
            async for version in versions:
                seen.append(version.number)
                rows += version.rows_added
                if rows == 30:
                    return

    watching = asyncio.create_task(watch())
    for at in range(3):
        await table.append({"id": range(at * 10, at * 10 + 10)})
    await asyncio.wait_for(watching, 10)
    assert seen == sorted(set(seen))


async def test_a_watch_ends_when_the_table_is_deleted(client: Client) -> None:
    table = await client.create_table("t", {"id": "int64"})

    async def watch() -> list[int]:
        return [version.number async for version in table.watch()]

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0.1)
    await table.delete()
    await asyncio.wait_for(watching, 10)


@pytest.mark.parametrize("name", ["a\x00b", "é", "x" * 5_000], ids=["NUL", "not ASCII", "long"])
async def test_a_name_that_metadata_cannot_carry_is_refused_with_a_reason(client: Any, name: str) -> None:
    with pytest.raises(errors.MillraceError) as refused:
        await client.table(name).info()
    assert refused.value.reason in ("FIELD_INVALID", "TABLE_NOT_FOUND")
