from __future__ import annotations

import datetime as dt
import decimal
import math
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import assume, given

from millrace.errors import FieldInvalid
from millrace.types.v1 import types_pb2
from svc_storage.convert.predicates import predicate_from, predicate_to
from svc_storage.domain.reading.filtering import evaluate, matching
from svc_storage.domain.reading.predicates import And, Compare, In, IsNull, Not, Op, Or, Predicate, bind
from tests.unit.storage.strategies import SCHEMA, batches, predicates


def _order(value: Any) -> Any:
    """PostgreSQL's and DuckDB's order of floats: NaN last, equal to itself."""
    return (1, 0.0) if isinstance(value, float) and math.isnan(value) else (0, value)


def truth(predicate: Predicate, row: dict[str, Any]) -> bool | None:
    """SQL's three values, row by row: what `evaluate` is judged by."""
    match predicate:
        case Compare(column, op, value):
            if row[column] is None:
                return None
            left, right = _order(row[column]), _order(value)
            return {
                Op.EQ: left == right, Op.NE: left != right, Op.LT: left < right,
                Op.LE: left <= right, Op.GT: left > right, Op.GE: left >= right,
            }[op]  # fmt: skip
        case In(column, values):
            if row[column] is None:
                return None
            return any(_order(row[column]) == _order(value) for value in values)
        case IsNull(column):
            return row[column] is None
        case Not(operand):
            inner = truth(operand, row)
            return None if inner is None else not inner
        case And(operands):
            found = [truth(operand, row) for operand in operands]
            return False if False in found else None if None in found else True
        case Or(operands):
            found = [truth(operand, row) for operand in operands]
            return True if True in found else None if None in found else False


@given(batches(), predicates)
def test_evaluate_is_sqls_three_valued_logic(batch: pa.RecordBatch, predicate: Predicate) -> None:
    bound = bind(predicate, SCHEMA)
    rows = batch.to_pylist()
    assert evaluate(bound, batch).to_pylist() == [truth(bound, row) for row in rows]
    kept = [row for row in rows if truth(bound, row)]
    assert repr(matching(batch, bound).to_pylist()) == repr(kept)  # by text: NaN equals itself there


@given(predicates)
def test_binding_twice_changes_nothing(predicate: Predicate) -> None:
    bound = bind(predicate, SCHEMA)
    assert repr(bind(bound, SCHEMA)) == repr(bound)


@given(predicates)
def test_over_the_wire_and_back(predicate: Predicate) -> None:
    assume("'single'" not in repr(predicate))  # a literal of its own, before it meets the column
    message = predicate_to(predicate)
    again = predicate_from(types_pb2.Predicate.FromString(message.SerializeToString()))
    assert repr(bind(again, SCHEMA)) == repr(bind(predicate, SCHEMA))


@pytest.mark.parametrize(
    ("predicate", "field"),
    [
        (Compare("nope", Op.EQ, 1), "predicate.compare.column"),
        (Compare("whole", Op.EQ, 1.5), "predicate.compare.value"),
        (Compare("whole", Op.EQ, 2**63), "predicate.compare.value"),
        (Compare("small", Op.LT, 200), "predicate.compare.value"),
        (Compare("number", Op.EQ, 2**53 + 1), "predicate.compare.value"),
        (Compare("money", Op.EQ, decimal.Decimal("1.205")), "predicate.compare.value"),
        (Compare("money", Op.EQ, decimal.Decimal("NaN")), "predicate.compare.value"),
        (Compare("flag", Op.EQ, 1), "predicate.compare.value"),
        (Compare("whole", Op.EQ, True), "predicate.compare.value"),
        (Compare("day", Op.EQ, dt.datetime(2000, 1, 1)), "predicate.compare.value"),
        (Compare("at", Op.EQ, dt.datetime(2000, 1, 1)), "predicate.compare.value"),
        (Compare("wall", Op.EQ, dt.datetime(2000, 1, 1, tzinfo=dt.UTC)), "predicate.compare.value"),
        (And((IsNull("whole"), Or((In("text", ("a", b"b")),)))), "predicate.all_of.predicates[1].any_of.predicates[0].one_of.values[1]"),
        (In("text", ()), "predicate.one_of.values"),
    ],
)  # fmt: skip
def test_a_literal_that_the_column_cannot_hold_is_refused(predicate: Predicate, field: str) -> None:
    with pytest.raises(FieldInvalid) as refused:
        bind(predicate, SCHEMA)
    assert refused.value.field == field


def test_too_deep_and_too_many() -> None:
    deep: Predicate = IsNull("whole")
    for _ in range(20):
        deep = Not(deep)
    with pytest.raises(FieldInvalid):
        bind(deep, SCHEMA)
    with pytest.raises(FieldInvalid):
        bind(Or((IsNull("whole"),) * 1_001), SCHEMA)
    message = types_pb2.Predicate(is_null="whole")
    for _ in range(20):
        message = types_pb2.Predicate(negation=message)
    with pytest.raises(FieldInvalid):
        predicate_from(message)


def test_a_nested_column_can_only_be_null() -> None:
    schema = pa.schema({"list": pa.list_(pa.int64())})
    assert bind(IsNull("list"), schema) == IsNull("list")
    with pytest.raises(FieldInvalid):
        bind(Compare("list", Op.EQ, 1), schema)
