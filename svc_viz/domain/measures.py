"""The short forms of a dashboard's queries: measures, groupings, conditions, ranges. Parsed, never pasted into SQL."""

from __future__ import annotations

import re
from collections.abc import Mapping

from svc_viz.ports import AllOf, Compare, Condition, Dimension, IsNull, Literal, Measure, OneOf

AGGREGATES = ("count", "sum", "avg", "min", "max", "distinct", "share", "stddev", "p50")
PARTS = ("hour", "weekday", "month")
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

_CALL = re.compile(r"([a-z]+\d{0,3}(?:\.\d+)?)\s*\(\s*(.*?)\s*\)", re.DOTALL)
_QUANTILE = re.compile(r"p(\d{1,2}(?:\.\d+)?|100)")
_DURATION = re.compile(r"(\d{1,6})([smhd])")
_COLUMN = re.compile(r"[A-Za-z][A-Za-z0-9_]*|_ingested_at")
_TOKEN = re.compile(
    r"\s*(?:(?P<number>[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)|(?P<text>'(?:[^']|'')*')|(?P<word>[A-Za-z_]\w*)|(?P<op><=|>=|<>|!=|=|<|>|\(|\)|,))"
)


class ShortForm(ValueError):
    """A text that is not a measure, condition, grouping or range. The message says what is expected instead."""


def measure(name: str, text: str) -> Measure:
    """`count`, `sum(x)`, `p90(x)`, `share(status = 'late')`. Raises ShortForm."""
    text = text.strip()
    if text == "count":
        return Measure(name, "count")
    if (call := _CALL.fullmatch(text)) is None:
        raise ShortForm(
            f"`{text}` is not a measure; write count, sum(column), avg(…), min(…), max(…), distinct(…), p90(…) or share(condition)"
        )
    function, inner = call[1], call[2]
    if function == "share":
        return Measure(name, "share", where=condition(inner))
    if not _COLUMN.fullmatch(inner):
        raise ShortForm(f"`{inner}` is not a column's name")
    if quantile := _QUANTILE.fullmatch(function):
        return Measure(name, "quantile", inner, quantile=float(quantile[1]) / 100)
    if function in {"count", "sum", "avg", "min", "max", "distinct", "stddev"}:
        return Measure(name, function, inner)
    raise ShortForm(f"`{function}` is not an aggregate; known here: {', '.join(AGGREGATES)}")


def grouping(text: str, zone: str) -> Dimension:
    """A column, or `hour(column)`, `weekday(column)`, `month(column)` in the zone; those are named `hour`, `weekday`, `month`."""
    text = text.strip()
    if _COLUMN.fullmatch(text):
        return Dimension(text, "column", text)
    call = _CALL.fullmatch(text)
    if call is None or call[1] not in PARTS or not _COLUMN.fullmatch(call[2]):
        raise ShortForm(f"`{text}` is not a grouping; write a column, or hour(column), weekday(column), month(column)")
    return Dimension(call[1], "part", call[2], part=call[1], zone=zone)


def duration_s(text: str) -> int:
    """Seconds of `15m`, `1h`, `7d`. Raises ShortForm."""
    if (found := _DURATION.fullmatch(text.strip())) is None or int(found[1]) == 0:
        raise ShortForm(f"`{text}` is not a duration; write a number with s, m, h or d, for instance 72h")
    return int(found[1]) * UNITS[found[2]]


def bucket(text: str, column: str, zone: str) -> Dimension:
    """`1h`, `15m`, `1d` of the time column; the result's column is `time`."""
    duration_s(text)
    found = _DURATION.fullmatch(text.strip())
    assert found is not None
    return Dimension("time", "bucket", column, unit=found[2], count=int(found[1]), zone=zone)


def range_s(text: str) -> int:
    """Seconds of `last 72h` (or `72h`); 0 for `all` and nothing. Raises ShortForm."""
    text = text.strip()
    return 0 if text in {"", "all"} else duration_s(text.removeprefix("last").strip())


def order(text: str) -> tuple[tuple[str, bool], ...]:
    """`n desc, carrier` as (column, descending). Raises ShortForm."""
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        column, _, direction = part.partition(" ")
        if not _COLUMN.fullmatch(column) or direction.strip() not in {"", "asc", "desc"}:
            raise ShortForm(f"`{part}` is not an order; write a column and asc or desc")
        found.append((column, direction.strip() == "desc"))
    return tuple(found)


def condition(text: str) -> Condition:
    """Comparisons joined by `and`: `status = 'late' and dep_delay > 15`; also `in (…)`, `is null`, `is not null`. Raises ShortForm."""
    return _Conditions(_tokens(text), text).all()


def _tokens(text: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    at, end = 0, len(text.rstrip())
    while at < end:
        if (token := _TOKEN.match(text, at)) is None:
            raise ShortForm(f"`{text[at:].strip()[:20]}` is not understood in the condition")
        kind = token.lastgroup or ""
        found.append((kind, token[kind]))
        at = token.end()
    return found


class _Conditions:
    """Recursive descent without recursion: one list of comparisons."""

    def __init__(self, tokens: list[tuple[str, str]], text: str) -> None:
        self._tokens, self._text, self._at = tokens, text, 0

    def all(self) -> Condition:
        parts = [self._one()]
        while self._at < len(self._tokens):
            if not self._word("and"):
                raise ShortForm(f"`and` is expected before `{self._tokens[self._at][1]}`")
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else AllOf(tuple(parts))

    def _one(self) -> Condition:
        column = self._next("word", "a column")
        if self._word("is"):
            negated = self._word("not")
            if not self._word("null"):
                raise ShortForm("`null` is expected after `is`")
            return IsNull(column, negated)
        if self._word("in"):
            return OneOf(column, self._list())
        op = self._next("op", "a comparison")
        if op not in {"=", "<>", "!=", "<", "<=", ">", ">="}:
            raise ShortForm(f"a comparison is expected after `{column}`, not `{op}`")
        return Compare(column, "<>" if op == "!=" else op, self._value())

    def _list(self) -> tuple[Literal, ...]:
        if self._next("op", "`(`") != "(":
            raise ShortForm("`(` is expected after `in`")
        values = [self._value()]
        while (op := self._next("op", "`,` or `)`")) == ",":
            values.append(self._value())
        if op != ")":
            raise ShortForm("`)` is expected after the values")
        return tuple(values)

    def _value(self) -> Literal:
        if self._at >= len(self._tokens):
            raise ShortForm("a value is missing at the end of the condition")
        kind, text = self._tokens[self._at]
        self._at += 1
        if kind == "number":
            return int(text) if re.fullmatch(r"[-+]?\d+", text) else float(text)
        if kind == "text":
            return text[1:-1].replace("''", "'")
        if kind == "word" and text.lower() in {"true", "false"}:
            return text.lower() == "true"
        raise ShortForm(f"a value is expected, not `{text}`; texts stand in single quotes")

    def _word(self, word: str) -> bool:
        if (
            self._at < len(self._tokens)
            and self._tokens[self._at][0] == "word"
            and self._tokens[self._at][1].lower() == word
        ):
            self._at += 1
            return True
        return False

    def _next(self, kind: str, what: str) -> str:
        if self._at >= len(self._tokens):
            raise ShortForm(f"{what} is missing at the end of the condition")
        found, text = self._tokens[self._at]
        if found != kind:
            raise ShortForm(f"{what} is expected, not `{text}`")
        self._at += 1
        return text


def columns_of(found: Condition | None) -> frozenset[str]:
    """Every column that a condition names."""
    match found:
        case None:
            return frozenset()
        case AllOf(parts):
            return frozenset().union(*map(columns_of, parts)) if parts else frozenset()
        case _:
            return frozenset({found.column})


def coerced(found: Condition, kinds: Mapping[str, str]) -> Condition:
    """The condition with numbers in the kind of their columns: a whole number compared with a float column becomes a float, and the
    reverse. Bounds with a fraction on whole-number columns move up to the next whole number (x >= 39.5 is x >= 40; x < 44.5 is x < 45)."""
    match found:
        case AllOf(parts):
            return AllOf(tuple(coerced(part, kinds) for part in parts))
        case Compare(column, op, value):
            return Compare(column, op, _as_kind(value, kinds.get(column, ""), op))
        case OneOf(column, values):
            return OneOf(column, tuple(_as_kind(value, kinds.get(column, ""), "=") for value in values))
    return found


def _as_kind(value: Literal, kind: str, op: str) -> Literal:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if kind == "float":
        return float(value)
    if kind == "int" and isinstance(value, float):
        if value.is_integer():
            return int(value)
        return -int(-value // 1) if op in {">=", "<"} else value
    return value
