"""Tables whose columns change through the client, also when two do it at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pyarrow as pa
import pytest

from millrace import errors
from millrace.client import Client
from millrace.client.tables import Table


@pytest.fixture
async def table(client: Client) -> Table:
    return await client.create_table("t", {"id": "int32", "name": "string?"})


async def rows_of(table: Table) -> list[dict[str, Any]]:
    return sorted((await table.read().result()).to_pylist(), key=lambda row: row["id"])


async def test_evolve_adds_what_the_rows_have(table: Table) -> None:
    await table.append([{"id": 1, "name": "a"}])
    with pytest.raises(errors.SchemaMismatch):
        await table.append([{"id": 2, "more": 1.5}])
    await table.append([{"id": 2, "more": 1.5, "nothing": None}], evolve=True)
    assert await rows_of(table) == [{"id": 1, "name": "a", "more": None}, {"id": 2, "name": None, "more": 1.5}]
    assert [str(field.type) for field in await table.schema()] == ["int32", "string", "double"]


async def test_columns_appear_in_the_middle_of_a_stream_of_rows(table: Table) -> None:
    batches = [pa.table({"id": pa.array([n], pa.int32()), f"c{n % 3}": [n]}).to_batches()[0] for n in range(12)]
    totals = await table.append(iter(batches), evolve=True)
    assert totals.rows_written == 12
    assert [[row[f"c{row['id'] % 3}"], sum(v is not None for v in row.values())] for row in await rows_of(table)] == [
        [n, 2] for n in range(12)
    ]


async def test_two_writers_change_columns_at_once(table: Table) -> None:
    async def write(own: int) -> None:
        async with table.writer(f"w{own}", evolve=True) as writer:
            for number in range(5):
                await writer.append([{"id": own * 100 + number, f"c{own}_{number}": number, "both": number}])

    await asyncio.gather(*(write(own) for own in range(4)))
    found = await rows_of(table)
    assert len(found) == 20
    assert all(row[f"c{row['id'] // 100}_{row['id'] % 100}"] == row["both"] == row["id"] % 100 for row in found)
    assert len(await table.schema()) == 2 + 20 + 1


async def test_a_writer_widens_and_relaxes(table: Table) -> None:
    async with table.writer("w") as writer:
        await writer.append([{"id": 1, "name": "a"}])
        schema = await writer.change_schema(widen={"id": "int64"}, relax=["id"], add={"note": "string"})
        assert (schema.field("id").type, schema.field("id").nullable) == (pa.int64(), True)
        await writer.append([{"id": 2**40, "name": "b", "note": "n"}])
        await writer.change_schema(widen={"id": "int64"})  # is so already
    assert [row["id"] for row in await rows_of(table)] == [1, 2**40]
    with pytest.raises(errors.SchemaMismatch):
        async with table.writer("w") as writer:
            await writer.change_schema(add={"note": "int64"})
    with pytest.raises(errors.FieldInvalid):
        async with table.writer("w") as writer:
            await writer.change_schema(add={"_mine": "int64"})


async def test_rows_with_a_position_are_one_batch_in_the_new_columns(table: Table) -> None:
    async with table.writer("w", evolve=True) as writer:
        batches = [pa.table({"id": pa.array([n], pa.int32()), f"c{n}": [n]}).to_batches()[0] for n in range(3)]
        await writer.append(iter(batches), position={"file": "3"})
    assert [row["c2"] for row in await rows_of(table)] == [None, None, 2]
