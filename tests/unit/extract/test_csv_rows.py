"""Rows of CSV against Python's own csv module, and against bytes that mean nothing."""

from __future__ import annotations

import csv
import io

import pyarrow as pa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from svc_extract.domain.parsing.blocks import Encoding, block_of
from svc_extract.domain.parsing.columns import Naming, plan_for
from svc_extract.domain.parsing.csv_rows import CsvRows
from svc_extract.domain.parsing.json_rows import JsonRows
from svc_extract.domain.parsing.parsed import Parsed, pieces
from svc_extract.domain.parsing.records import Dialect

TEXTS = pa.schema([(name, pa.string()) for name in ("a", "b", "c")])
MIXED = pa.schema(
    [
        ("a", pa.int32()),
        ("b", pa.float64()),
        ("c", pa.timestamp("us", "UTC")),
        ("d", pa.decimal128(9, 2)),
        ("e", pa.bool_()),
        ("f", pa.time64("us")),
        ("g", pa.list_(pa.int8())),
    ]
)
FIELDS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12)


def parse(data: bytes, schema: pa.Schema, encoding: str = "utf-8", nulls: tuple[str, ...] = ()) -> Parsed:
    dialect = Dialect(columns=len(schema))
    block = block_of(data, dialect, Encoding.named(encoding), final=True)
    rows = CsvRows(dialect, plan_for(schema.names, Naming(), schema, where="x"), nulls)
    parsed = rows.parse(block.records, block.bad, block.raws)
    assert parsed.records == len(block.records)
    return parsed


@given(st.lists(st.tuples(FIELDS, FIELDS, FIELDS), max_size=12), st.sampled_from(["utf-8", "utf-16-le", "utf-32-be"]))
@settings(max_examples=100)
@example([("\r", "", "a"), ("\n", '"', ",")], "utf-8")
@example([("", "", "\x85\u2028")], "utf-8")
def test_what_a_csv_writer_wrote_comes_back(rows: list[tuple[str, str, str]], encoding: str) -> None:
    out = io.StringIO(newline="")
    csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)
    parsed = parse(out.getvalue().encode(encoding), TEXTS, encoding)
    assert [tuple(row.values()) for row in parsed.rows.to_pylist()] == rows
    assert not parsed.letters


NOISE = st.one_of(
    st.binary(max_size=200),
    st.lists(
        st.sampled_from(
            [b"1", b",", b"\n", b'"', b"\r", b"-", b".", b"e9", b"nan", b"[1]", b"\xff", b"\0", b"2020-01-01", b":"]
        ),
        max_size=80,
    ).map(b"".join),
)


@given(NOISE, st.sampled_from(["utf-8", "latin-1", "utf-16-le", "shift_jis"]))
@settings(max_examples=150)
def test_noise_becomes_rows_or_dead_letters_and_nothing_else(data: bytes, encoding: str) -> None:
    for schema in (MIXED, TEXTS):
        parsed = parse(data, schema, encoding, ("", "1"))
        parsed.rows.validate(full=True)
        found = list(pieces(parsed, limit_bytes=200))
        assert sum(piece.records for piece in found) == parsed.records
        assert sum(piece.rows.num_rows + len(piece.letters) for piece in found) == parsed.records


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.sampled_from([b'{"a": 1}', b'{"a": 1e9, "g": [1, 300]}', b"{}", b"[", b'{"c": "x"}', b'{"d": 1.005}']),
        ),
        max_size=10,
    )
)
@settings(max_examples=100)
def test_json_noise_too(records: list[bytes]) -> None:
    parsed = JsonRows(MIXED, Naming()).parse(records, {})
    assert parsed.records == len(records)
    parsed.rows.validate(full=True)
