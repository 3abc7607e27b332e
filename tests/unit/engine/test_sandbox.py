"""Hostile SQL is refused by name; ordinary SQL is not."""

from __future__ import annotations

import pytest

from millrace.engine.names import TableRef
from millrace.engine.sandbox import parse
from millrace.errors import SqlInvalid

ACCEPTED = {
    "select a + 1, count(*) filter (where b > 2), $x, sum(a) over (order by b) from t join ns.u using (id) limit 3": {
        "t",
        "ns.u",
    },
    "from T$all": {"t$all"},
    "select raw from t$dead_letters": {"t$dead_letters"},
    "with recursive r as (select 1 n union all select n + 1 from r where n < 5) select * from r": set(),
    "with a as (select * from b), c as (select * from a) select * from a, c, (values (1, 2)) v(x, y), unnest([1]) u": {
        "b"
    },
    "with a as (select * from a) select * from a": {"a"},
    "with recursive t(a, b) using key (a) as (select 1, 2 union select 3, 4 from t) select * from t, recurring.t": set(),
    "select list_transform([1, 2], lambda x: x + 1), columns('a.*'), * exclude (a) replace (b + 1 as b) from t": {"t"},
    "select case when a then 1 end, cast(a as int), a[1], {'x': 1}, exists (select 1), interval 1 day, a.b.c from t": {
        "t"
    },
    "select a::decimal(10, 2), a::int[], a::struct(x int), a::timestamptz, try_cast(a as double) from t": {"t"},
    "select * from t asof join u on t.a >= u.a": {"t", "u"},
    "select * from t pivot (sum(a) for b in (1, 2))": {"t"},
    "select * from t unpivot (v for n in (a, b))": {"t"},
    "select a from t union by name select 1 order by all": {"t"},
    "select first(a), lag(a, 1) over (partition by b order by c) from t qualify row_number() over () = 1": {"t"},
    "select extract(year from a), substring(a from 1 for 2), a at time zone 'UTC', a ~ 'x', a ->> '$.x' from t": {"t"},
    "select * from range(10), generate_series(1, 2) with ordinality": set(),
    "select repeat('x', 80), lpad(a, 20, '0'), format('{:>8}', a), bar(a, 0, 9) from t, unnest([1, 2]) u": {"t"},
    "values " + ", ".join(f"({i}, ')')" for i in range(2000)): set(),
}

REFUSED = {
    "show tables": "SHOW",
    "describe t": "DESCRIBE",
    "summarize t": "SUMMARIZE",
    "select * from (show tables)": "SHOW",
    "select * from (describe t)": "DESCRIBE",
    "select 1; select 2": "2 statements",
    "select 1; copy t to 'x'": "COPY",
    "": "0 statements",
    "copy t to '/tmp/x.csv'": "COPY",
    "copy (select 1 as a) to 'f.parquet' (format parquet, use_tmp_file false)": "COPY",
    "attach '/tmp/x.db'": "ATTACH",
    "install httpfs": "INSTALL",
    "load icu": "LOAD",
    "set threads = 1": "SET",
    "pragma version": "PRAGMA",
    "call pragma_version()": "CALL",
    "explain select 1": "EXPLAIN",
    "export database 'x'": "EXPORT",
    "create table x as select 1": "CREATE",
    "insert into t values (1)": "INSERT",
    "vacuum": "VACUUM",
    "checkpoint": "CHECKPOINT",
    "use x": "USE",
    "pivot t on a using sum(b)": "PIVOT",
    "with x as (insert into t values (1) returning *) select * from x": "insert",
    "select * from read_parquet('x')": "read_parquet",
    "select * from read_text('/etc/passwd')": "read_text",
    "select * from 'x.parquet'": "x.parquet",
    'select * from "/etc/passwd"': "/etc/passwd",
    "select * from glob('*')": "glob",
    "select * from duckdb_settings()": "duckdb_settings",
    "select * from pragma_version()": "pragma_version",
    "select * from parquet_metadata('x')": "parquet_metadata",
    "select * from query('select 1')": "query",
    "select * from information_schema.tables": "information_schema",
    "select * from pg_catalog.pg_class": "pg_catalog",
    "select * from main.t": "main",
    "select * from system.main.t": "system",
    "select * from recurring.t": "recurring",
    "select * from t at (version => 3)": "AT",
    "select current_setting('allowed_paths')": "current_setting",
    "select getenv('HOME')": "getenv",
    "select x.query_table('a')": "query_table",
    "select system.main.getenv('HOME')": "getenv",
    "select nextval('x')": "nextval",
    "select sleep_ms(100000)": "sleep_ms",
    "select error('x')": "error",
    "select sum(x) over (partition by getvariable('a')) from t": "getvariable",
    "select * from t order by getenv('x')": "getenv",
    "select * from t limit (select getenv('x'))": "getenv",
    "select 1 where exists (select getenv('x'))": "getenv",
    "select [getenv(y) for y in ['HOME']]": "getenv",
    "select * from t join u on getenv('x') = 'y'": "getenv",
    "select 'x'::regclass": "regclass",
    "select default": "DEFAULT",
    "select " + "(" * 2000 + "1" + ")" * 2000: "deeply",
    "select * from " + "(" * 30_000 + "t" + ")" * 30_000: "nested too deeply",
    "select * from " + "(/*)*/" * 3_000 + "t": "block comments",
    "select * from " + "($$)$$" * 3_000 + "t": "dollar quotes",
    "select e'\\'' || '" + "(" * 600 + "'": "E'' strings",
    "select ['" + "]" * 600 + "'" + ", [" * 600 + "1": "nested too deeply",
    "select range(1000000000)": "`range` as a value",
    "select * from unnest(generate_series(1, 1000000000))": "`generate_series` as a value",
    "select repeat('x', 2000000000)": "beyond 10,000",
    "select repeat(repeat('x', 1000), 1000)": "beyond 10,000",
    "select repeat(s, 1000) from (select repeat('x', 1000) s)": "beyond 10,000",
    "select rpad('x', a, 'y') from t": "no constant",
    "select list_resize([1], 1000000000)": "beyond 10,000",
    "select format('{:>1000000000}', 'x')": "width",
    "select printf('%*d', 1000000000, 1)": "width",
    "select format(a, 1) from t": "no constant",
    "select": "parsed",
    "select '\x00'; drop table t": "NUL",
    "select '" + "x" * 70_000 + "'": "64 KiB",
}


@pytest.mark.parametrize(("sql", "tables"), ACCEPTED.items(), ids=[sql[:40] for sql in ACCEPTED])
def test_ordinary_selects_pass_and_name_their_tables(sql: str, tables: set[str]) -> None:
    assert {str(ref) for ref in parse(sql).tables} == tables


@pytest.mark.parametrize(("sql", "named"), REFUSED.items(), ids=[sql[:40] for sql in REFUSED])
def test_everything_else_is_refused_by_name(sql: str, named: str) -> None:
    with pytest.raises(SqlInvalid) as refused:
        parse(sql)
    assert named in refused.value.message


@pytest.mark.parametrize(
    "sql",
    [
        "select * from duckdb_views, (with duckdb_views as (select 1) select * from duckdb_views)",
        "with duckdb_views as (select * from duckdb_views) select * from duckdb_views",
        "with a as (select * from duckdb_views), duckdb_views as (select 1) select * from a",
    ],
)
def test_a_cte_hides_a_catalog_view_only_where_duckdb_lets_it(sql: str) -> None:
    assert TableRef("", "duckdb_views") in parse(sql).tables, "unknown to storage, so refused there as TABLE_NOT_FOUND"


def test_parameters_order_and_volatility_are_reported() -> None:
    found = parse("select now(), random(), $a, $b, current_date from t tablesample 10% order by 1")
    assert found.parameters == {"a", "b"}
    assert found.ordered
    assert found.volatile == {"now", "random", "current_date", "TABLESAMPLE"}


def test_names_become_full_names() -> None:
    assert TableRef("", "t$all").full_name("ns") == "namespaces/ns/tables/t"
    assert TableRef("other", "t$dead_letters").full_name("ns") == "namespaces/other/tables/t$dead_letters"
    with pytest.raises(SqlInvalid):
        TableRef("", "t$x").full_name("ns")
