"""Query: header, batches, end; SQL and typed; cut and resumed; refused by name."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from millrace import errors
from millrace.analysis.v1 import analysis_pb2, query_pb2
from millrace.types.v1 import types_pb2
from tests.contract.analysis.conftest import SCHEMA, Analysis, T, collect, rows

COUNT = {"name": "n", "aggregate": query_pb2.AGGREGATE_COUNT}
ROWS = types_pb2.ENCODING_ROWS


async def test_sql_answers_with_header_rows_and_end(analysis: Analysis) -> None:
    found = await analysis.sql("select kind, count(*) as n from t group by kind order by kind")
    assert found.rows == [{"kind": "a", "n": 60}, {"kind": "b", "n": 60}]
    assert dict(found.header.versions) == {T: 1}
    assert (found.end.row_count, found.end.truncated) == (2, False)
    assert found.end.bytes_scanned > 0


async def test_rows_and_arrow_carry_the_same(analysis: Analysis) -> None:
    text = "select * from t order by id"
    assert (await analysis.sql(text, encoding=ROWS)).table.equals((await analysis.sql(text)).table)


async def test_typed_groups_with_a_gap_filled(analysis: Analysis) -> None:
    await analysis.files.append(T, rows(60, first=240))
    bucket = {"name": "hour", "bucket": {"unit": query_pb2.TIME_UNIT_HOUR}}
    spec = {"table": "t", "dimensions": [bucket], "measures": [COUNT], "fill": query_pb2.FILL_ZERO}
    found = await analysis.query(spec=spec)
    assert [row["n"] for row in found.rows] == [60, 60, 0, 0, 60]


async def test_a_drill_returns_the_rows_that_a_measure_counted(analysis: Analysis) -> None:
    where = {"compare": {"column": "kind", "op": types_pb2.COMPARE_OP_EQ, "value": {"string": "a"}}}
    counted = await analysis.query(spec={"table": "t", "measures": [COUNT], "where": where})
    drilled = await analysis.query(spec={"table": "t", "where": where})
    assert counted.rows == [{"n": drilled.end.row_count}]
    assert drilled.table.schema.names == SCHEMA.names


async def test_parameters(analysis: Analysis) -> None:
    sql = {
        "text": "select count(*) as n from t where kind = $k and id < $top",
        "params": {"k": {"string": "a"}, "top": {"int": 10}},
    }
    assert (await analysis.query(sql=sql)).rows == [{"n": 5}]
    with pytest.raises(errors.FieldInvalid) as missing:
        await analysis.sql("select $a")
    assert missing.value.field == "sql.params[a]"


async def test_a_pinned_version_stays(analysis: Analysis) -> None:
    await analysis.files.append(T, rows(10, first=120))
    assert (await analysis.sql("select count(*) as n from t", versions={"t": 1})).rows == [{"n": 120}]
    assert (await analysis.sql("select count(*) as n from t")).rows == [{"n": 130}]
    with pytest.raises(errors.VersionInFuture):
        await analysis.sql("select 1 from t", versions={"t": 99})
    with pytest.raises(errors.FieldInvalid):
        await analysis.sql("select 1 from t", versions={"other": 1})


async def test_two_names_of_a_table_show_one_version(analysis: Analysis) -> None:
    found = await analysis.sql("select (select count(*) from t) as a, (select count(_ingested_at) from t$all) as b")
    assert found.rows == [{"a": 120, "b": 120}]


async def test_an_empty_table_answers(analysis: Analysis) -> None:
    await analysis.files.create("namespaces/default/tables/empty", SCHEMA, "ts")
    assert (await analysis.sql("select * from empty")).table.num_rows == 0
    assert (await analysis.query(spec={"table": "empty", "measures": [COUNT]})).rows == [{"n": 0}]
    bucket = {"name": "hour", "bucket": {"unit": query_pb2.TIME_UNIT_HOUR}}
    spec = {
        "table": "empty",
        "dimensions": [bucket],
        "measures": [COUNT],
        "fill": query_pb2.FILL_ZERO,
        "last_seconds": 60,
    }
    assert (await analysis.query(spec=spec)).rows == []


async def test_max_rows_cuts_and_says_so(analysis: Analysis) -> None:
    found = await analysis.sql("select * from t", max_rows=7)
    assert (found.table.num_rows, found.end.row_count, found.end.truncated) == (7, 7, True)
    exact = await analysis.sql("select * from t", max_rows=120)
    assert (exact.table.num_rows, exact.end.truncated) == (120, False)


@pytest.mark.parametrize(
    "text", ["select * from t", "select kind, id from t order by kind", "select id, value from t order by value desc"]
)
async def test_a_cut_answer_goes_on_with_exactly_the_next_row(analysis: Analysis, text: str) -> None:
    await analysis.files.append(T, rows(3000, first=120))
    whole = await analysis.sql(text, resumable=True, encoding=ROWS)
    assert whole.end.row_count == 3120
    assert len(whole.tokens) >= 4
    assert all(0 < len(token) <= 512 for token in whole.tokens)
    await analysis.files.append(T, rows(50, first=9000))
    at = 0
    for index, token in enumerate(whole.tokens[:-1]):
        at += [1000, 1000, 1000, 120][index]
        rest = await analysis.sql(text, resumable=True, resume_token=token)
        assert rest.table.equals(whole.table.slice(at))
        assert rest.end.row_count == 3120
        assert dict(rest.header.versions) == {T: 2}


async def test_typed_answers_resume_too(analysis: Analysis) -> None:
    await analysis.files.append(T, rows(3000, first=120))
    spec = {"table": "t", "order": [{"column": "kind"}]}
    whole = await analysis.query(spec=spec, resumable=True, encoding=ROWS)
    rest = await analysis.query(spec=spec, resumable=True, resume_token=whole.tokens[1])
    assert rest.table.equals(whole.table.slice(2000))


async def test_tokens_belong_to_one_question(analysis: Analysis) -> None:
    whole = await analysis.sql("select * from t", resumable=True)
    with pytest.raises(errors.TokenMismatch):
        await analysis.sql("select id from t", resumable=True, resume_token=whole.tokens[0])
    with pytest.raises(errors.TokenUnsupported):
        await analysis.sql("select * from t", resumable=True, resume_token=b"\x09" + whole.tokens[0][1:])
    with pytest.raises(errors.FieldInvalid):
        await analysis.sql("select * from t", resumable=True, resume_token=whole.tokens[0][:-1] + b"\x00")
    await analysis.files.create(T, SCHEMA, "ts")
    await analysis.files.append(T, rows(5))
    with pytest.raises(errors.TableRecreated):
        await analysis.sql("select * from t", resumable=True, resume_token=whole.tokens[0])


async def test_without_a_total_order_there_is_no_token(analysis: Analysis) -> None:
    assert set((await analysis.sql("select * from t")).tokens) == {b""}
    assert set((await analysis.sql("select *, random() as r from t", resumable=True)).tokens) == {b""}


@pytest.mark.parametrize(
    ("fields", "kind", "field"),
    [
        ({}, errors.FieldRequired, "spec|sql"),
        ({"sql": {}}, errors.FieldRequired, "sql.text"),
        ({"spec": {}}, errors.FieldRequired, "spec.table"),
        ({"sql": {"text": "select * from nope"}}, errors.TableNotFound, ""),
        ({"sql": {"text": "select nope from t"}}, errors.SqlInvalid, ""),
        ({"sql": {"text": "select 1 as a, 2 as a"}}, errors.SqlInvalid, ""),
        ({"sql": {"text": "select 'x'::int"}}, errors.SqlInvalid, ""),
        ({"sql": {"text": "select interval 1 day as d"}}, errors.UnsupportedType, "d"),
        ({"spec": {"table": "a/b"}}, errors.FieldInvalid, "spec.table"),
        ({"spec": {"table": "t", "measures": [{"name": "n"}]}}, errors.FieldRequired, "spec.measures[0].aggregate"),
        (
            {"spec": {"table": "t", "dimensions": [{"column": "nope"}]}},
            errors.FieldInvalid,
            "spec.dimensions[0].column",
        ),
        (
            {"spec": {"table": "t", "dimensions": [{}]}},
            errors.FieldRequired,
            "spec.dimensions[0].column|bucket|bin|part",
        ),
        ({"spec": {"table": "t", "limit": -1}}, errors.FieldInvalid, "spec.limit"),
        ({"sql": {"text": "select 1"}, "max_rows": -1}, errors.FieldInvalid, "max_rows"),
        ({"sql": {"text": "select 1"}, "namespace": "../x"}, errors.FieldInvalid, "namespace"),
        ({"sql": {"text": "select 1"}, "encoding": 9}, errors.FieldInvalid, "encoding"),
        ({"sql": {"text": "select 1"}, "max_message_bytes": -5}, errors.FieldInvalid, "max_message_bytes"),
    ],
)
async def test_a_bad_request_names_its_fault(
    analysis: Analysis,
    fields: dict[str, Any],
    kind: type[errors.MillraceError],
    field: str,
) -> None:
    with pytest.raises(kind) as refused:
        await analysis.query(**fields)
    assert type(refused.value) is kind
    assert refused.value.field == field or not field


HOSTILE = [
    "select * from '{file}'",
    "select * from read_parquet('{file}')",
    "select * from read_text('/etc/passwd')",
    "copy (select 1 as a) to '{file}' (format parquet, use_tmp_file false)",
    "copy t to '/tmp/out.csv'",
    "attach '/tmp/x.db'",
    "install httpfs",
    "load httpfs",
    "set memory_limit = '100GB'",
    "pragma version",
    "select 1; select 2",
    "select 1; copy t to '{file}'",
    "select * from glob('/*')",
    "select current_setting('allowed_paths')",
    "select * from duckdb_settings()",
    "select * from duckdb_views()",
    "select * from duckdb_views",
    "select * from parquet_metadata('{file}')",
    "select * from query('select 1')",
    "select getenv('HOME')",
    "describe t",
    "show tables",
    "create table x as select 1",
    "export database '/tmp/out'",
]


@pytest.mark.parametrize("text", HOSTILE)
async def test_hostile_sql_is_refused_and_changes_nothing(analysis: Analysis, tmp_path: Path, text: str) -> None:
    pinned = await analysis.files.pin(T)
    before = [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in pinned.files]
    with pytest.raises((errors.SqlInvalid, errors.TableNotFound)) as refused:
        await analysis.sql(text.format(file=pinned.files[0]))
    assert str(tmp_path) not in refused.value.message.replace(pinned.files[0], "the path that was asked for")
    assert [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in pinned.files] == before


async def test_a_query_that_takes_too_long_or_too_much_ends_cleanly(analysis: Analysis) -> None:
    request = analysis_pb2.QueryRequest(sql={"text": "select sum(a.id * b.range) from t a, range(1000000000) b"})
    with pytest.raises(errors.DeadlineTooShort):
        await collect(analysis.stub().Query(request, timeout=1.0))
    with pytest.raises(errors.MemoryLimit):
        await analysis.sql("select list(repeat('x', 300) || i::varchar) from range(5000000) t(i)")
    assert (await analysis.sql("select 1 as x")).rows == [{"x": 1}]


async def test_a_client_that_goes_away_stops_the_engine(analysis: Analysis) -> None:
    request = analysis_pb2.QueryRequest(sql={"text": "select sum(a.id * b.range) from t a, range(1000000000) b"})
    calls = [analysis.stub().Query(request) for _ in range(4)]
    for call in calls:
        call.cancel()
    assert (await analysis.sql("select 1 as x")).rows == [{"x": 1}]


async def test_every_type_travels(analysis: Analysis) -> None:
    text = """select true as b, 1::tinyint as i, 1.5::decimal(10, 2) as d, 'x' as s, 'x'::blob as bin, date '2024-02-29' as da,
        time '23:59:59.000001' as ti, timestamptz '2024-01-01 00:00:00+00' as tz, timestamp '2024-03-31 02:30:00' as dt,
        [1, null] as l, {'a': 1} as st, map {'k': 1} as m, null as n, 1::ubigint as u, sum(1::bigint) as h, uuid_from as x
        from (select 'a'::varchar as uuid_from) group by all"""
    arrow, plain = await analysis.sql(text), await analysis.sql(text, encoding=ROWS)
    assert arrow.table.equals(plain.table)
    assert isinstance(arrow.table, pa.Table)
