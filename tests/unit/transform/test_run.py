"""Runs over memory: the output is the recipe over all rows, each row once, whatever died where."""

from __future__ import annotations

import random
from collections import Counter

import pyarrow as pa
import pytest

from millrace.engine.functions import AGGREGATES, VOLATILE
from millrace.errors import SchemaMismatch, SqlInvalid, TableNotFound
from svc_transform.adapters.memory import MemoryEngine, MemoryOutputs, MemoryReports, MemoryTables
from svc_transform.domain.incrementality import Vocabulary
from svc_transform.domain.run import Runner
from svc_transform.ports import Recipe

F, K, OUT = (f"namespaces/default/tables/{name}" for name in ("f", "k", "out"))
FLIGHTS = pa.schema([pa.field("id", pa.int64(), False), pa.field("k", pa.int64())])
KEYS = pa.schema([pa.field("id", pa.int64(), False), pa.field("name", pa.string())])
JOIN = "SELECT f.id, k.name, f.id % 3 AS third FROM f LEFT JOIN k ON k.id = f.k WHERE f.id % 5 <> 0"
COUNT = "SELECT k, count(*) AS n FROM f GROUP BY k"


class Died(Exception):
    """The process is gone."""


def recipe(sql: str = JOIN, driving: str = F, **more: object) -> Recipe:
    return Recipe(
        name="namespaces/default/transforms/d",
        uid="u",
        generation=1,
        sql=sql,
        output=OUT,
        driving_table=driving,
        **more,
    )  # type: ignore[arg-type]


def flights(first: int, count: int) -> pa.Table:
    return pa.table(
        {"id": range(first, first + count), "k": [i % 7 for i in range(first, first + count)]}, schema=FLIGHTS
    )


async def world() -> MemoryTables:
    tables = MemoryTables()
    await tables.create(F, FLIGHTS)
    await tables.create(K, KEYS)
    await tables.append(K, pa.table({"id": range(5), "name": [f"n{i}" for i in range(5)]}, schema=KEYS))
    return tables


def runner(tables: MemoryTables, step: object = lambda _: None, batch_rows: int = 10) -> Runner:
    words = Vocabulary(AGGREGATES, VOLATILE)
    return Runner(tables, MemoryEngine(tables, batch_rows), MemoryOutputs(tables, step), words)  # type: ignore[arg-type]


def rows(table: pa.Table) -> Counter[str]:
    return Counter(map(repr, table.to_pylist()))


async def expected(tables: MemoryTables, wish: Recipe) -> Counter[str]:
    engine = MemoryEngine(tables)
    facts = [await tables.get(name) for name in engine.inspect(wish.sql, "default").inputs]
    from svc_transform.ports import InputRange

    async with engine.run(wish.sql, "default", [InputRange(t.name, t.uid, t.version) for t in facts]) as result:
        batches = [batch async for batch in result]
    return rows(pa.Table.from_batches(batches, schema=(await tables.get(OUT)).schema)) if batches else Counter()


async def test_first_run_then_only_what_is_new() -> None:
    tables, seen = await world(), MemoryReports()
    await tables.append(F, flights(0, 40))
    first = await runner(tables).run(recipe(), 1, seen)
    await tables.append(F, flights(40, 25))
    second = await runner(tables).run(recipe(), 1, seen)
    third = await runner(tables).run(recipe(), 1, seen)
    assert (first.step.reason, second.step.full_refresh, third.step.empty) == ("FIRST_RUN", False, True)
    assert [part.after_version for part in second.step.inputs if part.table == F] == [1]
    assert rows(tables.content(OUT)) == await expected(tables, recipe())


@pytest.mark.parametrize("seed", range(24))
async def test_deaths_anywhere_lose_and_double_nothing(seed: int) -> None:
    rng = random.Random(seed)
    tables, wish = await world(), recipe(COUNT, F) if seed % 6 == 5 else recipe()

    def step(_: str) -> None:
        if rng.random() < 0.25:
            raise Died

    size, epoch = 0, 0
    for _ in range(8):
        count = rng.choice([0, 1, 9, 45])
        await tables.append(F, flights(size, count))
        size += count
        for _ in range(rng.randrange(3)):
            epoch += 1
            try:
                await runner(tables, step).run(wish, epoch, MemoryReports())
            except Died:
                continue
    await runner(tables).run(wish, epoch + 1, MemoryReports())
    await runner(tables).run(wish, epoch + 1, MemoryReports())
    assert rows(tables.content(OUT)) == await expected(tables, wish)


async def test_an_aggregate_is_run_in_full_and_replaces() -> None:
    tables, wish = await world(), recipe(COUNT)
    await tables.append(F, flights(0, 30))
    await runner(tables).run(wish, 1, MemoryReports())
    await tables.append(F, flights(30, 30))
    outcome = await runner(tables).run(wish, 1, MemoryReports())
    assert (outcome.judged.reason, outcome.step.reason) == ("AGGREGATE", "NOT_INCREMENTAL")
    assert rows(tables.content(OUT)) == await expected(tables, wish)


async def test_another_recipe_rebuilds_the_output() -> None:
    tables = await world()
    await tables.append(F, flights(0, 30))
    await runner(tables).run(recipe(), 1, MemoryReports())
    changed = recipe(JOIN.replace("% 5", "% 2"))
    outcome = await runner(tables).run(changed, 2, MemoryReports())
    assert outcome.step.reason == "SPEC_CHANGED"
    assert rows(tables.content(OUT)) == await expected(tables, changed)


async def test_a_result_without_rows_still_moves_the_position() -> None:
    tables, wish = await world(), recipe("SELECT id FROM f WHERE id < 0")
    await tables.append(F, flights(0, 30))
    await runner(tables).run(wish, 1, MemoryReports())
    assert (await runner(tables).run(wish, 1, MemoryReports())).step.empty


@pytest.mark.parametrize(
    ("sql", "error"),
    [
        ("SELECT * FROM nowhere", TableNotFound),
        ("SELECT * FROM out", SchemaMismatch),
        ("COPY f TO 'x'", SqlInvalid),
        ("SELECT * FROM read_csv('x')", SqlInvalid),
    ],
)
async def test_bad_recipes_are_refused_before_anything_runs(sql: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        await runner(await world()).validate(recipe(sql))


async def test_a_column_of_another_type_is_refused() -> None:
    tables = await world()
    await tables.create(OUT, pa.schema([("id", pa.string())]))
    with pytest.raises(SchemaMismatch, match="id"):
        await runner(tables).prepare(recipe("SELECT id FROM f"))


async def test_the_output_grows_with_its_input() -> None:
    tables = await world()
    await tables.create(OUT, pa.schema([("id", pa.int32()), ("kept", pa.string())]))
    grown = await runner(tables).prepare(recipe("SELECT id, id + 1 AS next FROM f"))
    assert grown.schema.names == ["id", "kept", "next"]
    assert grown.schema.field("id").type == pa.int64()
    assert (await runner(tables).prepare(recipe("SELECT id FROM f"))).version == grown.version, "nothing more to change"


@pytest.mark.parametrize("after", [0, 1, 5])
async def test_a_cancelled_run_stops_between_two_commits_and_the_next_goes_on(after: int) -> None:
    tables, seen = await world(), MemoryReports()
    await tables.append(F, flights(0, 2_000))
    looked = 0

    def stop() -> bool:
        nonlocal looked
        looked += 1
        return looked > after

    wide = recipe("SELECT f.id, f.k FROM f")
    outcome = await runner(tables, batch_rows=100).run(wide, 1, seen, stop=stop)
    assert outcome.cancelled
    stopped_at = (await tables.get(OUT)).version
    outcome = await runner(tables, batch_rows=100).run(wide, 1, seen)
    assert not outcome.cancelled
    assert rows(tables.content(OUT)) == await expected(tables, wide)
    assert stopped_at < (await tables.get(OUT)).version
