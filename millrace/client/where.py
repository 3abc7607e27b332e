"""Conditions as programs write them, all of which must hold: `[("delay", ">", 15), ("carrier", "in", ["UA"]), ("note", "is null")]`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from millrace import errors
from millrace.types.v1 import types_pb2 as pb
from millrace.wire.values import value_to_proto

Where: TypeAlias = "pb.Predicate | Sequence[tuple[Any, ...]]"

_OPERATORS: Mapping[str, pb.CompareOp.ValueType] = {
    "=": pb.COMPARE_OP_EQ,
    "==": pb.COMPARE_OP_EQ,
    "!=": pb.COMPARE_OP_NE,
    "<>": pb.COMPARE_OP_NE,
    "<": pb.COMPARE_OP_LT,
    "<=": pb.COMPARE_OP_LE,
    ">": pb.COMPARE_OP_GT,
    ">=": pb.COMPARE_OP_GE,
}


def predicate(where: Where | None) -> pb.Predicate | None:
    """The condition as the wire has it; one that is already, is given back. Raises FieldInvalid naming what is wrong."""
    if where is None or isinstance(where, pb.Predicate):
        return where
    found = [_one(condition) for condition in where]
    return found[0] if len(found) == 1 else pb.Predicate(all_of=pb.PredicateList(predicates=found))


def _one(condition: tuple[Any, ...]) -> pb.Predicate:
    match condition:
        case (str() as column, "is null"):
            return pb.Predicate(is_null=column)
        case (str() as column, "is not null"):
            return pb.Predicate(negation=pb.Predicate(is_null=column))
        case (str() as column, "in", values):
            return pb.Predicate(one_of=pb.Membership(column=column, values=map(value_to_proto, values)))
        case (str() as column, str() as operator, value) if operator in _OPERATORS:
            return pb.Predicate(
                compare=pb.Comparison(column=column, op=_OPERATORS[operator], value=value_to_proto(value))
            )
    raise errors.FieldInvalid(
        f"{condition!r:.80} is not a condition",
        field="where",
        hint=f'write ("column", "=", value); operators: {", ".join(_OPERATORS)}, in, is null',
    )
