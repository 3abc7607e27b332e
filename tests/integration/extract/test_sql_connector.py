"""The SQL connector against a real PostgreSQL: every row once, late ones of an equal cursor value included, secrets nowhere."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing
from decimal import Decimal

import pyarrow as pa
import pytest

from millrace.errors import FieldInvalid, FieldRequired, SchemaMismatch, SourceUnavailable
from millrace.extract.v1 import extract_pb2
from svc_extract.adapters.connectors.sql.connector import SqlConnector
from svc_extract.ports import Chunk, Guarantee, Position, SourceSpec, TableInfo, Until
from tests.integration.extract.conftest import Postgres

pytestmark = pytest.mark.needs("postgres")

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), False),
        pa.field("price", pa.decimal128(10, 2)),
        pa.field("at", pa.timestamp("us", "UTC")),
    ]
)
TARGET = TableInfo("namespaces/default/tables/orders", "u", SCHEMA)


class Clock:
    """Real sleeps, cut short."""

    def now_us(self) -> int:
        return 0

    def monotonic_s(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.02))


class Secrets:
    def __init__(self, uri: str) -> None:
        self._uri = uri

    def reveal(self, reference: str, *, field: str) -> str:
        if reference != "env:DB":
            raise FieldInvalid("unknown secret", field=field)
        return self._uri


@pytest.fixture
def connector(postgres: Postgres) -> SqlConnector:
    return SqlConnector(Secrets(postgres.uri), Clock())


@pytest.fixture
def orders(postgres: Postgres) -> str:
    name = f"orders_{uuid.uuid4().hex[:10]}"
    postgres.psql(f"CREATE TABLE {name} (id bigserial PRIMARY KEY, price numeric(10,2), at timestamptz NOT NULL)")
    return name


def insert(postgres: Postgres, table: str, count: int, at: str = "2026-01-01 00:00:00+00") -> None:
    postgres.psql(f"INSERT INTO {table} (price, at) SELECT i * 1.25, '{at}' FROM generate_series(1, {count}) i")


def spec(source: str, **options: object) -> SourceSpec:
    given: dict[str, object] = {"driver": "postgresql", "connection": "env:DB", "table": source, **options}
    if "query" in options:
        del given["table"]
    return SourceSpec(table=TARGET.name, connector="sql", options=extract_pb2.SqlConnector(**given))  # type: ignore[arg-type]


async def chunks(
    connector: SqlConnector, wish: SourceSpec, start: Position | None = None, until: Until = Until.END
) -> list[Chunk]:
    return [chunk async for chunk in connector.read(wish, TARGET, start, until)]


def ids(found: list[Chunk]) -> list[int]:
    return [value for chunk in found if chunk.rows is not None for value in chunk.rows.column("id").to_pylist()]


async def test_all_rows_typed_as_the_table_has_them(connector: SqlConnector, postgres: Postgres, orders: str) -> None:
    insert(postgres, orders, 3)
    found = await chunks(connector, spec(orders))
    assert found[0].rows is not None
    assert found[0].rows.schema.equals(SCHEMA)
    assert found[0].rows.column("price").to_pylist() == [Decimal("1.25"), Decimal("2.50"), Decimal("3.75")]
    assert all(chunk.position is None for chunk in found)


async def test_only_new_rows_come_the_second_time(connector: SqlConnector, postgres: Postgres, orders: str) -> None:
    wish = spec(orders, cursor_column="id", key_columns=["id"])
    insert(postgres, orders, 10)
    first = await chunks(connector, wish)
    insert(postgres, orders, 5)
    second = await chunks(connector, wish, first[-1].position)
    assert (ids(first), ids(second)) == (list(range(1, 11)), list(range(11, 16)))
    assert await chunks(connector, wish, second[-1].position) == []


async def test_rows_of_an_equal_cursor_value_that_come_late_are_not_lost(
    connector: SqlConnector, postgres: Postgres, orders: str
) -> None:
    wish = spec(orders, cursor_column="at", key_columns=["id"])
    insert(postgres, orders, 4, "2026-01-01")
    first = await chunks(connector, wish)
    insert(postgres, orders, 3, "2026-01-01")
    second = await chunks(connector, wish, first[-1].position)
    assert (sorted(ids(first)), sorted(ids(second))) == ([1, 2, 3, 4], [5, 6, 7])


async def test_rows_within_the_lateness_are_not_lost(connector: SqlConnector, postgres: Postgres, orders: str) -> None:
    wish = spec(orders, cursor_column="at", key_columns=["id"], cursor_lateness=60)
    insert(postgres, orders, 2, "2026-01-01 00:01:00+00")
    first = await chunks(connector, wish)
    insert(postgres, orders, 2, "2026-01-01 00:00:30+00")
    second = await chunks(connector, wish, first[-1].position)
    insert(postgres, orders, 1, "2026-01-01 00:02:00+00")
    third = await chunks(connector, wish, second[-1].position)
    assert [sorted(ids(found)) for found in (first, second, third)] == [[1, 2], [3, 4], [5]]


@pytest.mark.parametrize("seed", range(4))
async def test_stopping_anywhere_and_reading_on_gives_each_row_once(
    connector: SqlConnector, postgres: Postgres, orders: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("svc_extract.adapters.connectors.sql.connector.ROWS_PER_STEP", 7)
    rng, wish = (
        random.Random(seed),
        spec(orders, cursor_column="at", key_columns=["id"], cursor_lateness=30 * (seed % 2)),
    )
    position, seen, size = None, Counter[int](), 0
    for minute in range(6):
        count = rng.randrange(1, 40)
        insert(postgres, orders, count, f"2026-01-01 00:0{minute // 2}:00+00")
        size += count
        async with aclosing(connector.read(wish, TARGET, position, Until.END)) as reading:
            async for chunk in reading:
                seen.update(ids([chunk]))
                position = chunk.position
                if rng.random() < 0.3:
                    break
    seen.update(ids(await chunks(connector, wish, position)))
    assert seen == Counter(range(1, size + 1))


async def test_a_continuous_source_sees_rows_as_they_come(
    connector: SqlConnector, postgres: Postgres, orders: str
) -> None:
    wish = spec(orders, cursor_column="id", key_columns=["id"])
    insert(postgres, orders, 3)
    seen: list[int] = []

    async def follow() -> AsyncIterator[None]:
        async with aclosing(connector.read(wish, TARGET, None, Until.STOPPED)) as reading:
            async for chunk in reading:
                seen.extend(ids([chunk]))
                yield

    async with asyncio.timeout(20), aclosing(follow()) as steps:
        async for _ in steps:
            if len(seen) == 3:
                break
        insert(postgres, orders, 2)
        async for _ in steps:
            if len(seen) == 5:
                break
    assert seen == [1, 2, 3, 4, 5]


async def test_a_value_the_column_cannot_hold_is_a_dead_letter(
    connector: SqlConnector, postgres: Postgres, orders: str
) -> None:
    postgres.psql(f"ALTER TABLE {orders} ALTER price TYPE numeric")
    postgres.psql(f"INSERT INTO {orders} (price, at) VALUES (1, now()), ('NaN', now()), (1.005, now()), (2, now())")
    (chunk,) = await chunks(connector, spec(orders))
    assert [(one.row_index, one.reason, one.field) for one in chunk.dead_letters] == [
        (1, "TYPE", "price"),
        (2, "TYPE", "price"),
    ]
    assert ids([chunk]) == [1, 4]


async def test_a_check_tells_columns_and_guarantee(connector: SqlConnector, orders: str) -> None:
    whole = await connector.check(spec(orders), TARGET)
    assert (whole.ok, whole.guarantee) == (True, Guarantee.AT_LEAST_ONCE)
    assert whole.schema is not None
    assert whole.schema.names == SCHEMA.names
    cursor = await connector.check(spec(orders, cursor_column="id", key_columns=["id"]), TARGET)
    assert cursor.guarantee is Guarantee.REPLAYABLE


@pytest.mark.parametrize(
    ("change", "error", "field"),
    [
        ({"driver": "oracle"}, FieldInvalid, "sql.driver"),
        ({"connection": ""}, FieldRequired, "sql.connection"),
        ({"cursor_column": "id"}, FieldRequired, "sql.key_columns"),
        ({"query": "SELECT 1;"}, FieldInvalid, "sql.query"),
        ({"table": 'a"; DROP TABLE x; --'}, FieldInvalid, "sql.table"),
        ({"cursor_lateness": 5}, FieldInvalid, "sql.cursor_lateness"),
    ],
)
def test_bad_options_are_refused_by_field(
    connector: SqlConnector, change: dict[str, object], error: type[Exception], field: str
) -> None:
    with pytest.raises(error) as caught:
        connector.validate(spec("orders", **change))
    assert caught.value.field == field  # type: ignore[attr-defined]


def refusals(table: str) -> list[tuple[SourceSpec, str, bool]]:
    return [
        (spec("no_such_table"), "FIELD_INVALID", True),
        (spec(table, cursor_column="nothing", key_columns=["id"]), "FIELD_INVALID", True),
        (spec("", query=f"DELETE FROM {table} RETURNING *"), "FIELD_INVALID", True),
        (spec("", query=f"SELECT *, 1 AS extra FROM {table}"), "SCHEMA_MISMATCH", True),
    ]


@pytest.mark.parametrize("number", range(4))
async def test_what_the_database_refuses_is_a_finding(
    connector: SqlConnector, postgres: Postgres, orders: str, number: int
) -> None:
    insert(postgres, orders, 1)
    wish, reason, fatal = refusals(orders)[number]
    report = await connector.check(wish, TARGET)
    assert [(found.reason, found.fatal) for found in report.findings] == [(reason, fatal)]
    assert postgres.psql(f"SELECT count(*) FROM {orders}").strip() == "1"


async def test_a_query_that_writes_is_refused(connector: SqlConnector, postgres: Postgres, orders: str) -> None:
    postgres.psql(
        "CREATE OR REPLACE FUNCTION sneak() RETURNS bigint LANGUAGE sql AS 'CREATE TABLE sneaked (); SELECT 1::bigint'"
    )
    with pytest.raises(FieldInvalid, match="changes data"):
        await chunks(connector, spec("", query="SELECT sneak() AS id, 1.0 AS price, now() AS at"))


async def test_an_unreachable_database_is_no_fault_of_the_spec_and_tells_no_secret() -> None:
    connector = SqlConnector(Secrets("postgresql://user:hunter2@127.0.0.1:9/db"), Clock())
    report = await connector.check(spec("orders"), TARGET)
    assert [(found.reason, found.fatal) for found in report.findings] == [("SOURCE_UNAVAILABLE", False)]
    with pytest.raises(SourceUnavailable) as caught:
        await chunks(connector, spec("orders"))
    assert "hunter2" not in repr(report) + str(caught.value) + repr(caught.value.__cause__)


async def test_link_local_addresses_are_refused() -> None:
    connector = SqlConnector(Secrets("postgresql://user@169.254.169.254/db"), Clock())
    report = await connector.check(spec("orders"), TARGET)
    assert report.findings[0].reason == "NOT_ALLOWED"


async def test_missing_columns_are_told_before_reading(
    connector: SqlConnector, postgres: Postgres, orders: str
) -> None:
    with pytest.raises(SchemaMismatch, match="may not be NULL"):
        await chunks(connector, spec("", query=f"SELECT price, at FROM {orders}"))
