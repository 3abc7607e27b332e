"""`millrace.types.v1.Predicate` and TimeRange to the domain's."""

from __future__ import annotations

from collections.abc import Mapping

from millrace.errors import FieldInvalid
from millrace.types.v1 import types_pb2
from millrace.wire.clock import micros_of
from millrace.wire.values import python_from_proto
from svc_analysis.domain.conditions import MAX_DEPTH
from svc_analysis.ports import AllOf, AnyOf, Compare, Condition, IsNull, Not, OneOf, Op, Scalar, TimeRange

_OPS: Mapping[int, Op] = {types_pb2.CompareOp.Value(f"COMPARE_OP_{op.name}"): op for op in Op}


def condition_from(message: types_pb2.Predicate, field: str, depth: int = 0) -> Condition:
    """Raises FieldInvalid naming the place. Columns and types are checked against the table later."""
    if depth > MAX_DEPTH:
        raise FieldInvalid(f"conditions are nested more than {MAX_DEPTH} deep", field=field)
    match message.WhichOneof("kind"):
        case "compare":
            return _compare(message.compare, f"{field}.compare")
        case "one_of":
            at = f"{field}.one_of.values"
            values = tuple(scalar_from(value, f"{at}[{i}]") for i, value in enumerate(message.one_of.values))
            return OneOf(message.one_of.column, values)
        case "is_null":
            return IsNull(message.is_null)
        case "negation":
            return Not(condition_from(message.negation, f"{field}.negation", depth + 1))
        case "all_of":
            return AllOf(_several(message.all_of, f"{field}.all_of", depth))
        case "any_of":
            return AnyOf(_several(message.any_of, f"{field}.any_of", depth))
    raise FieldInvalid("one of compare, all_of, any_of, negation, one_of, is_null is expected", field=field)


def optional_condition(message: types_pb2.Predicate, present: bool, field: str) -> Condition | None:
    return condition_from(message, field) if present else None


def _compare(message: types_pb2.Comparison, field: str) -> Compare:
    if message.op not in _OPS:
        raise FieldInvalid("an operator is expected", field=f"{field}.op")
    return Compare(message.column, _OPS[message.op], scalar_from(message.value, f"{field}.value"))


def _several(message: types_pb2.PredicateList, field: str, depth: int) -> tuple[Condition, ...]:
    return tuple(condition_from(p, f"{field}.predicates[{i}]", depth + 1) for i, p in enumerate(message.predicates))


def scalar_from(message: types_pb2.Value, field: str) -> Scalar:
    """A value that is neither NULL nor nested. Raises FieldInvalid."""
    kind = message.WhichOneof("kind")
    if kind in (None, "null", "list", "struct", "map"):
        raise FieldInvalid("a value of the column's type is expected (for NULL use is_null)", field=field)
    value = python_from_proto(message, where=field)
    assert isinstance(value, Scalar)
    return value


def time_range_from(message: types_pb2.TimeRange, field: str) -> TimeRange:
    start = micros_of(message.start, f"{field}.start") if message.HasField("start") else None
    end = micros_of(message.end, f"{field}.end") if message.HasField("end") else None
    return TimeRange(start, end)
