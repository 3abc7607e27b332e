"""Which SELECTs may run over new rows alone, and that the judgement agrees with the engine's own answers."""

from __future__ import annotations

import json

import duckdb
import pytest

from millrace.engine.functions import AGGREGATES, VOLATILE
from svc_transform.domain.incrementality import Vocabulary, judge

WORDS = Vocabulary(AGGREGATES, VOLATILE)


def tree_of(sql: str) -> dict[str, object]:
    ((text,),) = (
        duckdb.connect()
        .execute("SELECT json_serialize_sql(?, skip_null := true, skip_empty := true, skip_default := true)", [sql])
        .fetchall()
    )
    return json.loads(text)["statements"][0]["node"]


SAFE = [
    "SELECT a, b FROM t WHERE a > 1",
    "SELECT t.a, k.name FROM t JOIN k ON k.id = t.k",
    "SELECT t.a, k.name FROM t LEFT JOIN k ON k.id = t.k",
    "SELECT t.a, k.name FROM k RIGHT JOIN t ON k.id = t.k",
    "SELECT t.a FROM t SEMI JOIN k ON k.id = t.k",
    "SELECT t.a FROM t WHERE t.k IN (SELECT id FROM k)",
    "SELECT t.a, m.n FROM t, (SELECT max(id) AS n FROM k) AS m",
    "WITH m AS (SELECT id, count(*) AS n FROM k GROUP BY 1) SELECT t.a, m.n FROM t LEFT JOIN m ON m.id = t.k",
    "SELECT a FROM t ORDER BY a",
]
UNSAFE = [
    ("SELECT count(*) FROM t", "AGGREGATE"),
    ("SELECT k, sum(a) FROM t GROUP BY k", "AGGREGATE"),
    ("SELECT DISTINCT a FROM t", "DISTINCT"),
    ("SELECT a, row_number() OVER (ORDER BY a) FROM t", "WINDOW"),
    ("SELECT a FROM t ORDER BY a LIMIT 3", "ORDER_LIMIT"),
    ("SELECT k.id, t.a FROM k LEFT JOIN t ON k.id = t.k", "OUTER_JOIN"),
    ("SELECT k.id, t.a FROM k FULL JOIN t ON k.id = t.k", "OUTER_JOIN"),
    ("SELECT id FROM k ANTI JOIN t ON k.id = t.k", "OUTER_JOIN"),
    ("SELECT a FROM t UNION ALL SELECT id FROM k", "SET_OPERATION"),
    ("SELECT x.a FROM t AS x JOIN t AS y ON x.a = y.a", "SUBQUERY_OVER_DRIVING_TABLE"),
    ("SELECT id FROM k WHERE id IN (SELECT k FROM t)", "SUBQUERY_OVER_DRIVING_TABLE"),
    ("SELECT a FROM t WHERE a > (SELECT avg(a) FROM t)", "SUBQUERY_OVER_DRIVING_TABLE"),
    ("WITH m AS (SELECT * FROM t) SELECT * FROM m", "SUBQUERY_OVER_DRIVING_TABLE"),
    ("SELECT a, random() FROM t", "VOLATILE_FUNCTION"),
    ("SELECT a, now() FROM t", "VOLATILE_FUNCTION"),
    ("SELECT id FROM k", "NO_DRIVING_TABLE"),
]


@pytest.mark.parametrize("sql", SAFE)
def test_a_union_of_parts_is_safe(sql: str) -> None:
    assert judge(tree_of(sql), "t", WORDS).append_safe


@pytest.mark.parametrize(("sql", "reason"), UNSAFE)
def test_what_looks_at_other_rows_is_refused(sql: str, reason: str) -> None:
    judged = judge(tree_of(sql), "t", WORDS)
    assert (judged.append_safe, judged.reason) == (False, reason)
    assert judged.message


@pytest.mark.parametrize("sql", SAFE)
def test_safe_means_that_parts_add_up(sql: str) -> None:
    """The engine over all rows gives the union of the engine over two halves."""
    con = duckdb.connect()
    con.sql("CREATE TABLE k AS SELECT i AS id, 'n' || i AS name FROM range(0, 7) r(i)")
    con.sql("CREATE TABLE whole AS SELECT i AS a, i * 2 AS b, i % 11 AS k FROM range(0, 60) r(i)")

    def answer(part: str) -> list[tuple[object, ...]]:
        con.sql(f"CREATE OR REPLACE TABLE t AS SELECT * FROM whole WHERE {part}")
        return con.sql(sql).fetchall()

    assert sorted(answer("a < 25") + answer("a >= 25"), key=repr) == sorted(answer("true"), key=repr)


def test_no_driving_table_named() -> None:
    assert judge(tree_of("SELECT a FROM t"), "", WORDS).reason == "NO_DRIVING_TABLE"


def test_a_table_of_another_namespace_drives() -> None:
    assert judge(tree_of("SELECT a FROM other.t"), "other.t", WORDS).append_safe
