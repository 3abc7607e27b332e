"""Which files cannot hold a matching row, from their statistics alone. Never wrong in the other direction."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntFlag
from functools import reduce
from itertools import product
from typing import Any

from svc_storage.domain.reading.predicates import And, Compare, In, IsNull, Literal, Not, Op, Or, Predicate


@dataclass(frozen=True, slots=True)
class ColumnBounds:
    """Bounds, not necessarily reached: low <= every value that is not null <= high. None: unknown.

    A float column that holds NaN or an infinity has no bounds (its writer leaves them out)."""

    low: Literal | None = None
    high: Literal | None = None
    nulls: int | None = None  # exact count; None: unknown


@dataclass(frozen=True, slots=True)
class FileBounds:
    rows: int | None = None
    columns: Mapping[str, ColumnBounds] = field(default_factory=dict)


class Outcome(IntFlag):
    """What a predicate may come to over the rows of a file: a set, too large rather than too small."""

    NONE = 0
    TRUE = 1
    FALSE = 2
    UNKNOWN = 4
    ANY = 7


def may_match(predicate: Predicate, bounds: FileBounds) -> bool:
    """False only if no row of the file can make the predicate true."""
    return bool(outcomes(predicate, bounds) & Outcome.TRUE)


def outcomes(predicate: Predicate, bounds: FileBounds) -> Outcome:
    match predicate:
        case Compare(column, op, value):
            return _over_column(bounds, column, op, value)
        case In(column, values):
            return reduce(_or, (_over_column(bounds, column, Op.EQ, v) for v in values))
        case IsNull(column):
            return _is_null(bounds, column)
        case Not(operand):
            return _not(outcomes(operand, bounds))
        case And(operands):
            return reduce(_and, (outcomes(o, bounds) for o in operands), Outcome.TRUE)
        case Or(operands):
            return reduce(_or, (outcomes(o, bounds) for o in operands), Outcome.FALSE)


def _or(left: Outcome, right: Outcome) -> Outcome:
    return _not(_and(_not(left), _not(right)))


def _not(value: Outcome) -> Outcome:
    swapped = value & Outcome.UNKNOWN
    if value & Outcome.TRUE:
        swapped |= Outcome.FALSE
    if value & Outcome.FALSE:
        swapped |= Outcome.TRUE
    return swapped


_ATOMS = (Outcome.TRUE, Outcome.FALSE, Outcome.UNKNOWN)


def _kleene_and(left: Outcome, right: Outcome) -> Outcome:
    if Outcome.FALSE in (left, right):
        return Outcome.FALSE
    return Outcome.UNKNOWN if Outcome.UNKNOWN in (left, right) else Outcome.TRUE


def _and(left: Outcome, right: Outcome) -> Outcome:
    found = Outcome.NONE
    for one, other in product(_ATOMS, _ATOMS):
        if one & left and other & right:
            found |= _kleene_and(one, other)
    return found


def _is_null(bounds: FileBounds, column: str) -> Outcome:
    known = bounds.columns.get(column)
    if known is None or known.nulls is None:
        return Outcome.TRUE | Outcome.FALSE
    if known.nulls == 0:
        return Outcome.FALSE
    return Outcome.TRUE if known.nulls == bounds.rows else Outcome.TRUE | Outcome.FALSE


def _over_column(bounds: FileBounds, column: str, op: Op, value: Literal) -> Outcome:
    known = bounds.columns.get(column, ColumnBounds())
    if known.nulls is not None and known.nulls == bounds.rows:
        return Outcome.UNKNOWN
    found = _over_range(known.low, known.high, op, value)
    return found if known.nulls == 0 else found | Outcome.UNKNOWN


def _over_range(low: Any, high: Any, op: Op, value: Any) -> Outcome:
    """Over all x with low <= x <= high: may `x op value` be true, may it be false?"""
    if isinstance(value, float) and math.isnan(value):
        return Outcome.TRUE | Outcome.FALSE
    below = low is None or low < value  # some x may be under the value
    above = high is None or high > value
    equal = (low is None or low <= value) and (high is None or high >= value)
    true, false = {
        Op.LT: (below, equal or above),
        Op.LE: (below or equal, above),
        Op.GT: (above, equal or below),
        Op.GE: (above or equal, below),
        Op.EQ: (equal, below or above),
        Op.NE: (below or above, equal),
    }[op]
    return (Outcome.TRUE if true else Outcome.NONE) | (Outcome.FALSE if false else Outcome.NONE)
