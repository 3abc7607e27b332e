"""What people and programs see: exact values, zones, NULL apart from the empty text, nothing that a terminal obeys."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
from collections.abc import Callable
from decimal import Decimal

import pyarrow as pa
import pytest

from millrace.cli.cells import json_column, text_column
from millrace.cli.writers import CsvWriter, JsonWriter, RowWriter, TableWriter

NEW_YORK = pa.timestamp("us", "America/New_York")


def written(make: Callable[[io.StringIO], RowWriter], *batches: pa.RecordBatch) -> str:
    out = io.StringIO()
    writer = make(out)
    writer.begin(batches[0].schema)
    for batch in batches:
        writer.write(batch)
    writer.end()
    return out.getvalue()


def batch(**columns: pa.Array) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict(columns)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([Decimal("1.20"), None], pa.decimal128(10, 2)), ["1.20", None]),
        (pa.array([9223372036854775807], pa.int64()), [9223372036854775807]),
        (pa.array([0.1, float("nan"), float("-inf")]), [0.1, "NaN", "-Infinity"]),
        (pa.array([True, False]), [True, False]),
        (pa.array([b"\x00\xff"]), ["AP8="]),
        (pa.array([dt.date(2024, 2, 29)]), ["2024-02-29"]),
        (pa.array([86399000001], pa.time64("us")), ["23:59:59.000001"]),
        (pa.array([0, 1500], pa.timestamp("us", "UTC")), ["1970-01-01T00:00:00Z", "1970-01-01T00:00:00.001500Z"]),
        (pa.array([1373277600000000], NEW_YORK), ["2013-07-08T06:00:00-04:00"]),
        (pa.array([1373277600000000], pa.timestamp("us", "+05:30")), ["2013-07-08T15:30:00+05:30"]),
        (pa.array([1373277600000000], pa.timestamp("us")), ["2013-07-08T10:00:00"]),
        (pa.array([-250_000, 5_400_000_000], pa.duration("us")), ["-0.25s", "5400s"]),
        (pa.array([[1, None], []], pa.list_(pa.int64())), [[1, None], []]),
        (pa.array([{"a": 0, "b": None}], pa.struct([("a", NEW_YORK), ("b", pa.string())])),
         [{"a": "1969-12-31T19:00:00-05:00", "b": None}]),
        (pa.array([[("k", dt.timedelta(seconds=1))]], pa.map_(pa.string(), pa.duration("us"))),
         [[{"key": "k", "value": "1s"}]]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)  # fmt: skip
def test_each_type_as_json(column: pa.Array, expected: list[object]) -> None:
    assert json_column(column) == expected
    assert json.loads(json.dumps(json_column(column))) == expected


def test_the_edges_of_time_have_a_text() -> None:
    ends = pa.array([-62_135_596_800_000_000, 253_402_300_799_999_999], NEW_YORK)
    assert text_column(ends)[1] == "9999-12-31T18:59:59.999999-05:00"
    assert text_column(ends)[0] == "0001-01-01T00:00:00Z"


def test_csv_tells_null_from_the_empty_text_and_is_read_back() -> None:
    rows = batch(a=pa.array(["x,y", "", None, 'say "hi"\nthere']), b=pa.array([1.5, None, 3.0, 4.0]))
    text = written(CsvWriter, rows)
    assert text.splitlines()[:4] == ["a,b", '"x,y",1.5', '"",', ",3.0"]
    assert list(csv.reader(io.StringIO(text)))[4] == ['say "hi"\nthere', "4.0"]


def test_json_is_one_array_over_batches_and_complete_only_at_the_end() -> None:
    one, two = batch(n=pa.array([1, 2]), t=pa.array(["", None])), batch(n=pa.array([3]), t=pa.array(["ü"]))
    assert json.loads(written(JsonWriter, one, two)) == [
        {"n": 1, "t": ""},
        {"n": 2, "t": None},
        {"n": 3, "t": "ü"},
    ]
    assert json.loads(written(JsonWriter, one.slice(0, 0))) == []
    out = io.StringIO()
    broken = JsonWriter(out)
    broken.begin(one.schema)
    broken.write(one)
    with pytest.raises(json.JSONDecodeError):
        json.loads(out.getvalue())


def test_a_table_aligns_numbers_and_spells_null_and_nothing() -> None:
    rows = batch(name=pa.array(["a", "", None, "NULL"]), n=pa.array([1, 20, None, 300]))
    assert written(TableWriter, rows).splitlines() == [
        "name       n",
        "──────  ────",
        "a          1",
        '""        20',
        "NULL    NULL",
        '"NULL"   300',
    ]


def test_rows_cannot_command_the_terminal() -> None:
    rows = batch(t=pa.array(["\x1b[2Jgone\r\n\u202eevil"]))
    text = written(TableWriter, rows)
    assert "\x1b" not in text
    assert "\\x1b[2Jgone\\r\\n\\u202eevil" in text


def test_an_empty_table_still_has_its_head() -> None:
    assert written(TableWriter, batch(a=pa.array([], pa.int64()))).splitlines() == ["a", "─"]


def test_long_results_are_not_held_back() -> None:
    out = io.StringIO()
    writer = TableWriter(out)
    rows = batch(n=pa.array(range(600)))
    writer.begin(rows.schema)
    writer.write(rows)
    assert out.getvalue().count("\n") == 602
    writer.write(batch(n=pa.array([10**12])))
    assert out.getvalue().splitlines()[-1] == "1000000000000"
