"""Merging and looking up through the client."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from millrace import errors
from millrace.client import Client, connect
from millrace.client.tables import Table
from millrace.server.testing import Served

COLUMNS = {"id": "int64", "name": "string?", "seq": "int64"}


def row(key: int, name: str | None, seq: int = 0, **more: object) -> dict[str, object]:
    return {"id": key, "name": name, "seq": seq, **more}


async def table_of(client: Client, **more: Any) -> Table:
    return await client.create_table("t", COLUMNS, primary_key=["id"], **more)


async def test_rows_are_replaced_and_deleted(client: Client) -> None:
    table = await table_of(client, sequence_column="seq")
    first = await table.merge([row(1, "a", 1), row(2, "b", 1), row(3, "c", 1)])
    assert (first.rows_written, first.rows_updated) == (3, 0)
    then = await table.merge(
        [row(1, "A", 2, op="UPSERT"), row(2, "old", 0, op="UPSERT"), row(3, None, 2, op="DELETE")], op_column="op"
    )
    assert (then.rows_written, then.rows_updated, then.rows_deleted, then.rows_ignored) == (1, 1, 1, 1)
    assert (await table.lookup([1, 2, 3])).to_pylist() == [row(1, "A", 2), row(2, "b", 1), None]
    assert [kind async for kind in kinds(table, 1)] == ["MERGE"]


async def kinds(table: Table, count: int) -> Any:
    async for version in table.watch():
        yield version.kind
        count -= 1
        if not count:
            return


async def test_a_merger_grows_columns(client: Client) -> None:
    table = await table_of(client)
    async with table.merger("m", op_column="op") as writer:
        await writer.append([row(1, "a", op="UPSERT")])
        await writer.change_schema(add={"more": "string?"})
        await writer.append([row(2, "b", op="UPSERT", more="m")])
    assert (await table.lookup([2])).to_pylist() == [row(2, "b", more="m")]


@pytest.mark.parametrize("shape", ["values", "tuples", "dicts", "arrow", "polars"])
async def test_keys_of_every_shape(client: Client, shape: str) -> None:
    table = await client.create_table("t", {"a": "string", "b": "date", "n": "int64"}, primary_key=["b", "a"])
    days = [dt.date(2026, 1, 1), dt.date(2026, 1, 2)]
    await table.append([{"a": "x", "b": days[0], "n": 1}, {"a": "x", "b": days[1], "n": 2}])
    keys: Any = {
        "tuples": [(days[1], "x"), (days[0], "y")],
        "dicts": [{"a": "x", "b": days[1]}, {"b": days[0], "a": "y"}],
        "arrow": pa.table({"a": ["x", "y"], "b": pa.array([days[1], days[0]])}),
        "polars": pl.DataFrame({"a": ["x", "y"], "b": [days[1], days[0]]}),
        "values": None,
    }[shape]
    if keys is None:
        with pytest.raises(errors.FieldInvalid):
            await table.lookup(days)
        return
    found = await table.lookup(keys, columns=["n"])
    assert found.to_pylist() == [{"n": 2}, None]


async def test_thousands_of_keys_are_one_version(client: Client) -> None:
    table = await table_of(client)
    await table.append(pa.table({"id": range(2_500), "name": ["x"] * 2_500, "seq": range(2_500)}))
    found = await table.lookup(range(1, 5_000, 2), columns=["seq"])
    assert (len(found.found), len(found)) == (2_500, 1_250)
    assert found.rows.column("seq").to_pylist() == list(range(1, 2_500, 2))


async def test_a_table_made_anew_has_its_own_key(client: Client) -> None:
    table = await table_of(client)
    await table.append([row(1, "a")])
    assert len(await table.lookup([1])) == 1
    await table.delete()
    await client.create_table("t", {"k": "string", "n": "int64"}, primary_key=["k"])
    await table.append([{"k": "a", "n": 1}])
    assert (await table.lookup(["a"])).to_pylist() == [{"k": "a", "n": 1}]


async def test_what_is_refused(client: Client) -> None:
    table = await client.create_table("t", COLUMNS)
    with pytest.raises(errors.NoPrimaryKey):
        await table.lookup([1])
    with pytest.raises(errors.NoPrimaryKey):
        await table.merge([row(1, "a")])
    keyed = await client.create_table("keyed", COLUMNS, primary_key=["id"])
    await keyed.merge([row(1, "a")])
    with pytest.raises(errors.WriterModeConflict):
        await keyed.append([row(2, "b")])
    with pytest.raises(errors.FieldInvalid):
        await keyed.lookup([])


async def test_without_async(storage: Served) -> None:
    def work() -> None:
        with connect(storage=storage.target, token="local-token") as client:
            table = client.create_table("b", COLUMNS, primary_key=["id"])
            assert table.merge([row(1, "a")]).rows_written == 1
            with table.merger(op_column="op") as writer:
                writer.append([row(1, None, op="DELETE"), row(2, "b", op="UPSERT")])
            assert table.lookup([1, 2]).to_pylist() == [None, row(2, "b")]

    await asyncio.to_thread(work)
