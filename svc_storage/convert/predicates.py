"""`millrace.types.v1.Predicate` and the domain's tree, both ways."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

from millrace.errors import FieldInvalid
from millrace.types.v1 import types_pb2 as pb
from millrace.wire.clock import EPOCH, micros_of
from millrace.wire.values import python_from_proto, value_to_proto
from svc_storage.domain.reading.predicates import MAX_DEPTH, And, Compare, In, IsNull, Literal, Not, Op, Or, Predicate
from svc_storage.domain.reading.scans import TimeRange

MAX_VALUES = 1_000
_OPS: Mapping[int, Op] = {pb.CompareOp.Value(f"COMPARE_OP_{op.name}"): op for op in Op}


def predicate_from(message: pb.Predicate, *, field: str = "predicate", depth: int = 1) -> Predicate:
    """Raises FieldInvalid naming the place. Columns and types are checked later, against the version's schema."""
    if depth > MAX_DEPTH:
        raise FieldInvalid(f"deeper than {MAX_DEPTH}", field=field)
    match message.WhichOneof("kind"):
        case "compare":
            compare, at = message.compare, f"{field}.compare"
            if compare.op not in _OPS:
                raise FieldInvalid("name an operator", field=f"{at}.op")
            return Compare(compare.column, _OPS[compare.op], _literal(compare.value, f"{at}.value"))
        case "one_of":
            values, at = message.one_of.values, f"{field}.one_of.values"
            if not 1 <= len(values) <= MAX_VALUES:
                raise FieldInvalid(f"1 to {MAX_VALUES} values", field=at)
            literals = tuple(_literal(value, f"{at}[{index}]") for index, value in enumerate(values))
            return In(message.one_of.column, literals)
        case "is_null":
            return IsNull(message.is_null)
        case "negation":
            return Not(predicate_from(message.negation, field=f"{field}.negation", depth=depth + 1))
        case "all_of":
            return And(_all(message.all_of, f"{field}.all_of", depth))
        case "any_of":
            return Or(_all(message.any_of, f"{field}.any_of", depth))
    raise FieldInvalid("a predicate is one of compare, all_of, any_of, negation, one_of, is_null", field=field)


def predicate_to(predicate: Predicate) -> pb.Predicate:
    match predicate:
        case Compare(column, op, value):
            number = pb.CompareOp.Value(f"COMPARE_OP_{op.name}")
            return pb.Predicate(compare=pb.Comparison(column=column, op=number, value=value_to_proto(value)))
        case In(column, values):
            return pb.Predicate(one_of=pb.Membership(column=column, values=map(value_to_proto, values)))
        case IsNull(column):
            return pb.Predicate(is_null=column)
        case Not(operand):
            return pb.Predicate(negation=predicate_to(operand))
        case And(operands):
            return pb.Predicate(all_of=pb.PredicateList(predicates=map(predicate_to, operands)))
        case Or(operands):
            return pb.Predicate(any_of=pb.PredicateList(predicates=map(predicate_to, operands)))


def time_range_from(message: pb.TimeRange) -> TimeRange:
    return TimeRange(
        _instant(message, "start") if message.HasField("start") else None,
        _instant(message, "end") if message.HasField("end") else None,
    )


def _all(messages: pb.PredicateList, field: str, depth: int) -> tuple[Predicate, ...]:
    return tuple(
        predicate_from(one, field=f"{field}.predicates[{index}]", depth=depth + 1)
        for index, one in enumerate(messages.predicates)
    )


def _literal(value: pb.Value, field: str) -> Literal:
    found = python_from_proto(value, where=field)
    if found is None:
        raise FieldInvalid("NULL equals nothing", field=field, hint="use is_null")
    if isinstance(found, (list, dict)):
        raise FieldInvalid("only plain values can be compared", field=field)
    return found  # type: ignore[no-any-return]


def _instant(message: pb.TimeRange, name: str) -> dt.datetime:
    micros = micros_of(getattr(message, name), f"time_range.{name}")
    return EPOCH.replace(tzinfo=dt.UTC) + dt.timedelta(microseconds=micros)
