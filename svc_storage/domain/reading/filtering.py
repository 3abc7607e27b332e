"""A bound predicate over an Arrow batch. The meaning is said in `predicates`; here it is computed."""

from __future__ import annotations

import math
from functools import reduce

import pyarrow as pa
import pyarrow.compute as pc

from svc_storage.domain.reading.predicates import And, Compare, In, IsNull, Literal, Not, Op, Or, Predicate

_PLAIN = {
    Op.EQ: pc.equal,
    Op.NE: pc.not_equal,
    Op.LT: pc.less,
    Op.LE: pc.less_equal,
    Op.GT: pc.greater,
    Op.GE: pc.greater_equal,
}


def matching(batch: pa.RecordBatch, predicate: Predicate) -> pa.RecordBatch:
    """The rows for which the predicate is true, in their order."""
    return batch.filter(evaluate(predicate, batch), null_selection_behavior="drop")


def evaluate(predicate: Predicate, batch: pa.RecordBatch) -> pa.BooleanArray:
    """True, false or null (unknown) for each row."""
    match predicate:
        case Compare(column, op, value):
            return _compare(batch.column(column), op, value)
        case In(column, values):
            return _in(batch.column(column), values)
        case IsNull(column):
            return pc.is_null(batch.column(column))
        case Not(operand):
            return pc.invert(evaluate(operand, batch))
        case And(operands):
            return reduce(pc.and_kleene, (evaluate(o, batch) for o in operands), _constant(True, batch))
        case Or(operands):
            return reduce(pc.or_kleene, (evaluate(o, batch) for o in operands), _constant(False, batch))


def _constant(value: bool, batch: pa.RecordBatch) -> pa.BooleanArray:
    return pa.repeat(pa.scalar(value), batch.num_rows)


def _compare(array: pa.Array, op: Op, value: Literal) -> pa.BooleanArray:
    if pa.types.is_floating(array.type) and isinstance(value, float):
        return _compare_float(array, op, value)
    return _PLAIN[op](array, pa.scalar(value, array.type))


def _compare_float(array: pa.Array, op: Op, value: float) -> pa.BooleanArray:
    nan = pc.is_nan(array)  # null stays null
    if math.isnan(value):
        return {
            Op.EQ: lambda: nan,
            Op.NE: lambda: pc.invert(nan),
            Op.LT: lambda: pc.invert(nan),
            Op.GE: lambda: nan,
            Op.LE: lambda: pc.or_kleene(nan, pc.invert(nan)),
            Op.GT: lambda: pc.and_kleene(nan, pc.invert(nan)),
        }[op]()
    plain = _PLAIN[op](array, pa.scalar(value, array.type))
    return pc.or_kleene(plain, nan) if op in (Op.GT, Op.GE) else plain


def _in(array: pa.Array, values: tuple[Literal, ...]) -> pa.BooleanArray:
    found = pc.is_in(array, value_set=pa.array(values, array.type))
    return pc.if_else(pc.is_valid(array), found, pa.scalar(None, pa.bool_()))
