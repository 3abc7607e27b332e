"""Random tables and predicates over them."""

from __future__ import annotations

import datetime as dt
import decimal
import math
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

from svc_storage.domain.reading.predicates import And, Compare, In, IsNull, Not, Op, Or, Predicate

SCHEMA = pa.schema(
    {
        "whole": pa.int64(),
        "small": pa.int8(),
        "number": pa.float64(),
        "single": pa.float32(),
        "text": pa.string(),
        "flag": pa.bool_(),
        "raw": pa.binary(),
        "money": pa.decimal128(10, 2),
        "day": pa.date32(),
        "at": pa.timestamp("us", "UTC"),
        "wall": pa.timestamp("us"),
    }
)

_instants = st.datetimes(dt.datetime(1999, 1, 1), dt.datetime(2001, 1, 1)).map(lambda value: value.replace(fold=0))
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "whole": st.integers(-3, 3) | st.sampled_from([2**63 - 1, -(2**63)]),
    "small": st.integers(-128, 127),
    "number": st.floats(width=64) | st.sampled_from([0.0, -0.0, 1.0, 1.5, math.nan, math.inf, -math.inf]),
    "single": st.floats(width=32) | st.sampled_from([0.0, 0.5]),
    "text": st.text(max_size=3) | st.sampled_from(["", "a", "b", "ä", "z" * 70]),
    "flag": st.booleans(),
    "raw": st.binary(max_size=2),
    "money": st.decimals(-5, 5, places=2) | st.just(decimal.Decimal("1.20")),
    "day": st.dates(dt.date(1999, 12, 28), dt.date(2000, 1, 4)),
    "at": _instants.map(lambda value: value.replace(tzinfo=dt.UTC)),
    "wall": _instants,
}
_names = st.sampled_from(SCHEMA.names)


@st.composite
def batches(draw: st.DrawFn, max_rows: int = 12) -> pa.RecordBatch:
    rows = draw(st.integers(0, max_rows))
    columns = [pa.array([draw(st.none() | VALUES[field.name]) for _ in range(rows)], field.type) for field in SCHEMA]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


@st.composite
def _compares(draw: st.DrawFn) -> Predicate:
    name = draw(_names)
    return Compare(name, draw(st.sampled_from(Op)), draw(VALUES[name]))


@st.composite
def _memberships(draw: st.DrawFn) -> Predicate:
    name = draw(_names)
    return In(name, tuple(draw(st.lists(VALUES[name], min_size=1, max_size=3))))


_leaves = _compares() | _memberships() | _names.map(IsNull)
predicates: st.SearchStrategy[Predicate] = st.recursive(
    _leaves,
    lambda inner: (
        inner.map(Not)
        | st.lists(inner, max_size=3).map(tuple).map(And)
        | st.lists(inner, max_size=3).map(tuple).map(Or)
    ),
    max_leaves=8,
)
