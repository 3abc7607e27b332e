"""Statements over plain files: columns, limits, cancellation, errors without paths, files that stay as they are."""

from __future__ import annotations

import asyncio
import hashlib
import time
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from millrace.engine.instance import open_instance
from millrace.engine.pinned import Limits, PinnedTable, Statement
from millrace.engine.run import Engine, Result
from millrace.engine.sandbox import with_total_order
from millrace.errors import DeadlineTooShort, FileMissing, MemoryLimit, SqlInvalid, TooManyStreams
from tests.unit.engine.conftest import SCHEMA, Pin, ref, rows


async def ask(engine: Engine, sql: str, pinned: dict[str, PinnedTable], **params: object) -> list[dict[str, object]]:
    tables = {ref(name): table for name, table in pinned.items()}
    return (await engine.table(Statement(sql=sql, params=params), tables)).to_pylist()


async def test_rows_of_all_files_are_seen(engine: Engine, pin: Pin) -> None:
    table = pin(rows(10), rows(5, first=10))
    assert await ask(engine, "select count(*) n, sum(id) s from t", {"t": table}) == [{"n": 15, "s": 105}]


async def test_an_empty_table_has_columns_and_no_rows(engine: Engine, pin: Pin) -> None:
    assert await ask(engine, "select kind, value from t", {"t": pin()}) == []


async def test_a_column_that_only_newer_files_have_is_null_in_the_older(engine: Engine, pin: Pin) -> None:
    wide = SCHEMA.append(pa.field("extra", pa.list_(pa.decimal128(10, 2))))
    newer = rows(1, first=1).append_column(wide.field("extra"), pa.array([[None]], wide.field("extra").type))
    table = pin(rows(1), newer, schema=wide)
    assert await ask(engine, "select id, extra from t order by id", {"t": table}) == [
        {"id": 0, "extra": None},
        {"id": 1, "extra": [None]},
    ]


async def test_parameters_are_values_not_text(engine: Engine, pin: Pin) -> None:
    found = await ask(engine, "select count(*) n from t where kind = $k", {"t": pin(rows())}, k="a' or 1=1 --")
    assert found == [{"n": 0}]


@pytest.mark.parametrize(("sql", "params"), [("select $a", {}), ("select $a", {"a": 1, "b": 2})])
async def test_parameters_must_fit(engine: Engine, sql: str, params: dict[str, int]) -> None:
    with pytest.raises(SqlInvalid, match="arameter"):
        await ask(engine, sql, {}, **params)


async def test_time_is_utc_and_a_namespace_is_a_schema(engine: Engine, pin: Pin) -> None:
    tables = {ref("t", "other"): pin(rows(1))}
    found = await engine.table(Statement(sql="select strftime(ts, '%H:%M') hm from other.t"), tables)
    assert found.to_pylist() == [{"hm": "00:00"}]


async def test_a_long_query_ends_at_its_deadline(engine: Engine) -> None:
    endless = Statement(sql="select sum(a.i * b.i) from range(1000000) a(i), range(1000000) b(i)")
    began = time.monotonic()
    with pytest.raises(DeadlineTooShort):
        await asyncio.wait_for(engine.table(endless, {}, deadline_s=0.3), 10)
    assert time.monotonic() - began < 3


async def test_cancelling_the_caller_stops_duckdb(engine: Engine) -> None:
    endless = Statement(sql="select sum(a.i * b.i) from range(1000000) a(i), range(1000000) b(i)")
    work = [asyncio.create_task(engine.table(endless, {})) for _ in range(2)]
    await asyncio.sleep(0.3)
    for task in work:
        task.cancel()
    await asyncio.wait(work, timeout=5)
    quick = await asyncio.wait_for(engine.table(Statement(sql="select 1 as x"), {}), 5)
    assert quick.to_pylist() == [{"x": 1}], "both threads are free again"


async def test_a_result_that_nobody_reads_holds_no_thread(engine: Engine) -> None:
    many = Statement(sql="select i from range(100000000) t(i)")
    async with engine.open(many, {}) as first, engine.open(many, {}) as second:
        assert (await anext(first)).num_rows == (await anext(second)).num_rows
        assert (await engine.table(Statement(sql="select 1 as x"), {})).num_rows == 1


async def test_too_many_open_results_are_refused(engine: Engine) -> None:
    opened = [engine.open(Statement(sql="select 1"), {}) for _ in range(4)]
    for result in opened:
        await result.__aenter__()
    with pytest.raises(TooManyStreams):
        await engine.table(Statement(sql="select 1"), {})
    for result in opened:
        await result.__aexit__(None, None, None)
    assert (await engine.table(Statement(sql="select 1"), {})).num_rows == 1


async def test_memory_is_limited(engine: Engine) -> None:
    greedy = Statement(sql="select list(repeat('x', 200) || i::varchar) from range(5000000) t(i)")
    with pytest.raises(MemoryLimit):
        await engine.table(greedy, {})


async def test_instances_in_use_share_the_memory(engine: Engine, pin: Pin) -> None:
    """200 MiB: together they may never use more; who finds none left waits, until somebody is done or its own time is over."""
    tables = [pin(rows(), name=f"t{i}") for i in range(3)]
    asked = [Statement(sql=f"select current_setting('memory_limit') l from t{i}") for i in range(3)]

    def opened(at: int, deadline_s: float = 5.0) -> AbstractAsyncContextManager[Result]:
        return engine.open(asked[at], {ref(f"t{at}"): tables[at]}, deadline_s=deadline_s)

    async def limit(result: Result) -> float:
        text = (await anext(result)).column("l")[0].as_py()
        assert text.endswith(" MiB")
        return float(text.removesuffix(" MiB"))

    async with opened(0) as first, opened(0) as beside, opened(1) as second:
        limits = [await limit(result) for result in (first, beside, second)]
        assert limits[0] == limits[1], "one instance"
        assert limits[0] + limits[2] <= 200
        with pytest.raises(TooManyStreams):
            await opened(2, deadline_s=0.2).__aenter__()
        waiting = asyncio.create_task(engine.table(asked[2], {ref("t2"): tables[2]}))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        await second.aclose()
    assert (await waiting).num_rows == 10
    async with opened(1) as alone:
        assert await limit(alone) <= 200


async def test_errors_hold_no_row_values_and_no_paths(engine: Engine, pin: Pin) -> None:
    table = pin(rows())
    with pytest.raises(SqlInvalid) as bad:
        await ask(engine, "select ('secret' || kind)::int from t", {"t": table})
    assert "secret" not in bad.value.message
    with pytest.raises(SqlInvalid, match="nope") as unknown:
        await ask(engine, "select nope from t", {"t": table})
    assert "/" not in unknown.value.message
    Path(table.files[0]).unlink()
    with pytest.raises(FileMissing) as gone:
        await ask(engine, "select sum(value) from t", {"t": table})
    assert "/" not in gone.value.message


async def test_the_pool_is_bounded_and_an_evicted_instance_serves_its_readers(engine: Engine, pin: Pin) -> None:
    tables = [pin(rows(i + 1), name=f"t{i}") for i in range(6)]
    async with engine.open(Statement(sql="select * from t0"), {ref("t0"): tables[0]}) as held:
        for index, table in enumerate(tables):
            count = await ask(engine, f"select count(*) n from t{index}", {f"t{index}": table})
            assert count == [{"n": index + 1}]
        assert sum([batch.num_rows async for batch in held]) == 1
    assert len(engine._pool) <= 3


async def test_the_same_data_give_the_same_bits_when_asked(engine: Engine, pin: Pin) -> None:
    table = pin(rows(50_000))
    sums = set()
    for _ in range(5):
        statement = Statement(sql="select sum(sin(value)) s from t")
        found = await engine.table(statement, {ref("t"): table}, deterministic=True)
        sums.add(found.column("s")[0].as_py())
    assert len(sums) == 1


# -- the second wall: whatever the parse check let through would meet these locks ------------------------------------------
LOCKED = [
    "copy (select 1) to '{folder}/x.csv'",
    "attach '{folder}/x.db'",
    "install httpfs",
    "load httpfs",
    "set threads = 1",
    "set lock_configuration = false",
    "set enable_external_access = true",
    "select * from read_text('/etc/passwd')",
    "select * from read_parquet('{folder}/other.parquet')",
    "select * from read_csv('{folder}/other.csv')",
    "select * from glob('{folder}/*')",
    "export database '{folder}/out'",
]


@pytest.mark.parametrize("sql", LOCKED)
def test_an_instance_opens_nothing_but_its_files(tmp_path: Path, pin: Pin, sql: str) -> None:
    table, other = pin(rows()), pin(rows(), name="other")
    Path(other.files[0]).rename(tmp_path / "other.parquet")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    before = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.iterdir()}
    connection = open_instance({ref("t"): table}, Limits(), threads=1, temp_directory=str(tmp_path / "spill"))
    with pytest.raises(duckdb.Error, match=r"^(Permission|Invalid Input|IO|Catalog) Error|locked"):
        connection.execute(sql.format(folder=tmp_path)).fetchall()
    connection.close()
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.iterdir()} == before


def test_why_the_parse_check_is_needed(tmp_path: Path, pin: Pin) -> None:
    """The locks alone do not stop this one: DuckDB overwrites an allowed file. If it ever refuses, the README can say so."""
    table = pin(rows())
    connection = open_instance({ref("t"): table}, Limits(), threads=1, temp_directory=str(tmp_path / "spill"))
    connection.execute(f"copy (select 1 as a) to '{table.files[0]}' (format parquet, use_tmp_file false)")
    connection.close()


@pytest.mark.parametrize(
    "sql",
    [
        "select kind, id from t",
        "select kind, id from t;",
        "select kind, id from t order by kind desc",
        "select kind, id from t order by all",
        "select kind, id from t order by kind limit 6",
        "select kind, count(*) as n from t group by all order by n",
        "select 1 as a union all select 0 order by 1",
        "with x as (select kind, $p as p, cast(value as decimal(10, 2)) as v from t) select * from x order by kind -- end",
        "select kind, list_transform([id], lambda y: y + 1) as l from t order by kind",
    ],
)
async def test_ties_are_broken_and_the_asked_order_kept(engine: Engine, pin: Pin, sql: str) -> None:
    params = {"p": 1} if "$p" in sql else {}
    tables = {ref("t"): pin(rows())}
    plain = await engine.table(Statement(sql=sql, params=params), tables)
    ordered = with_total_order(sql, plain.num_columns)
    found = await engine.table(Statement(sql=ordered, params=params), tables)
    if "limit" not in sql:  # where ties meet a limit, the order decides which rows stay
        assert sorted(map(repr, found.to_pylist())) == sorted(map(repr, plain.to_pylist()))
    first = found.column(0).to_pylist()
    if "order by kind desc" in sql:
        assert (first, found["id"].to_pylist()) == (["b"] * 5 + ["a"] * 5, [1, 3, 5, 7, 9, 0, 2, 4, 6, 8])
    else:
        assert first == sorted(first)
