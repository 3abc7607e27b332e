"""Keys as people write them on the command line."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import click
import pyarrow as pa
import pytest

from millrace.cli.commands.lookup import keys_of


def test_a_key_of_one_column_is_taken_whole() -> None:
    schema = pa.schema([pa.field("name", pa.string())])
    assert keys_of(("a,b", ""), schema).to_pylist() == [{"name": "a,b"}, {"name": ""}]


def test_columns_stand_between_commas_and_have_their_types() -> None:
    schema = pa.schema(
        [
            pa.field("id", pa.int64()),
            pa.field("day", pa.date32()),
            pa.field("at", pa.timestamp("us", "UTC")),
            pa.field("price", pa.decimal128(10, 2)),
            pa.field("name", pa.string()),
        ]
    )
    (found,) = keys_of(('7,2024-02-29,2024-02-29T01:02:03.000004Z,1.20,"a,b"',), schema).to_pylist()
    at = dt.datetime(2024, 2, 29, 1, 2, 3, 4, tzinfo=dt.UTC)
    assert found == {"id": 7, "day": dt.date(2024, 2, 29), "at": at, "price": Decimal("1.20"), "name": "a,b"}


@pytest.mark.parametrize("text", ["1", "1,2,3", "one,2024-01-01", "1,yesterday"])
def test_what_is_no_key_is_named(text: str) -> None:
    schema = pa.schema([pa.field("id", pa.int32()), pa.field("day", pa.date32())])
    with pytest.raises(click.UsageError):
        keys_of((text,), schema)
