"""The small change of SQL trees: columns, literals, functions, conditions."""

from __future__ import annotations

import datetime as dt
import math
from decimal import Decimal

from sqlglot import exp
from sqlglot.dialects.duckdb import DuckDB

from svc_analysis.ports import AnyOf, Compare, Condition, IsNull, Not, OneOf, Op, Scalar

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_OPS: dict[Op, type[exp.Binary]] = {
    Op.EQ: exp.EQ,
    Op.NE: exp.NEQ,
    Op.LT: exp.LT,
    Op.LE: exp.LTE,
    Op.GT: exp.GT,
    Op.GE: exp.GTE,
}


class _Generator(DuckDB.Generator):
    """DuckDB 2's own way to write a lambda; sqlglot 30 still writes the arrow that DuckDB refuses."""

    def lambda_sql(self, expression: exp.Lambda, arrow_sep: str = "->", wrap: bool = True) -> str:
        names = ", ".join(self.sql(name) for name in expression.expressions)
        return f"lambda {names}: {self.sql(expression, 'this')}"


def render(query: exp.Expr) -> str:
    """The text that DuckDB runs."""
    return str(_Generator(dialect=DuckDB()).generate(query))


def column(name: str, table: str = "") -> exp.Expr:
    return exp.column(
        exp.to_identifier(name, quoted=True), table=exp.to_identifier(table, quoted=True) if table else None
    )


def named(expression: exp.Expr, name: str) -> exp.Expr:
    return exp.alias_(expression, exp.to_identifier(name, quoted=True), quoted=True)


def call(name: str, *arguments: exp.Expr | int) -> exp.Expr:
    """A function exactly as DuckDB knows it: sqlglot translates nothing inside."""
    return exp.Anonymous(this=name, expressions=[number(a) if isinstance(a, int) else a for a in arguments])


def number(value: int) -> exp.Expr:
    return exp.Literal.number(value) if value >= 0 else exp.Paren(this=exp.Neg(this=exp.Literal.number(-value)))


def cast(expression: exp.Expr, kind: str) -> exp.Expr:
    return exp.Cast(this=expression, to=exp.DataType.build(kind, dialect="duckdb"))


def double(value: float) -> exp.Expr:
    """Exactly `value`: `repr` is the shortest text that reads back the same."""
    return cast(exp.Literal.string("NaN" if math.isnan(value) else repr(value)), "DOUBLE")


def moment(micros: int) -> dt.datetime:
    """Microseconds since 1970 as the engine takes an instant."""
    return _EPOCH + dt.timedelta(microseconds=micros)


def edge(name: str) -> exp.Expr:
    """An edge of the window: the TIMESTAMPTZ parameter `$window_<name>`."""
    return cast(exp.Parameter(this=exp.Var(this=f"window_{name}")), "TIMESTAMPTZ")


def literal(value: Scalar) -> exp.Expr:
    """A typed constant. Text goes in as a string literal, never as SQL."""
    if isinstance(value, bool):
        return exp.true() if value else exp.false()
    if isinstance(value, int):
        return cast(exp.Literal.string(str(value)), "BIGINT" if -(2**63) <= value < 2**63 else "DECIMAL(38, 0)")
    if isinstance(value, float):
        return double(value)
    if isinstance(value, str):
        return exp.Literal.string(value)
    if isinstance(value, bytes):
        return call("unhex", exp.Literal.string(value.hex()))
    if isinstance(value, Decimal):
        return cast(exp.Literal.string(format(value, "f")), _decimal_type(value))
    return _temporal(value)


def _decimal_type(value: Decimal) -> str:
    exponent = value.as_tuple().exponent
    scale = max(0, -exponent) if isinstance(exponent, int) else 0
    return f"DECIMAL(38, {min(scale, 38)})"


def _temporal(value: dt.date | dt.time | dt.datetime | dt.timedelta) -> exp.Expr:
    if isinstance(value, dt.datetime):
        kind = "TIMESTAMPTZ" if value.tzinfo else "TIMESTAMP"
        return cast(exp.Literal.string(value.isoformat(" ")), kind)
    if isinstance(value, dt.date):
        return cast(exp.Literal.string(value.isoformat()), "DATE")
    if isinstance(value, dt.time):
        return cast(exp.Literal.string(value.isoformat()), "TIME")
    return call("to_microseconds", cast(exp.Literal.string(str(value // dt.timedelta(microseconds=1))), "BIGINT"))


def condition(asked: Condition) -> exp.Expr:
    """Always in parentheses where it could be read otherwise."""
    if isinstance(asked, Compare):
        return _OPS[asked.op](this=column(asked.column), expression=literal(asked.value))
    if isinstance(asked, OneOf):
        return exp.In(this=column(asked.column), expressions=[literal(value) for value in asked.values])
    if isinstance(asked, IsNull):
        return exp.Is(this=column(asked.column), expression=exp.Null())
    if isinstance(asked, Not):
        return exp.Not(this=exp.Paren(this=condition(asked.inner)))
    inner = [exp.Paren(this=condition(part)) for part in asked.inner]
    if isinstance(asked, AnyOf):
        return exp.or_(*inner) if inner else exp.false()
    return exp.and_(*inner) if inner else exp.true()


def is_not_null(expression: exp.Expr) -> exp.Expr:
    return exp.Not(this=exp.Is(this=expression, expression=exp.Null()))


def conjunction(conditions: list[exp.Expr]) -> exp.Expr | None:
    return exp.and_(*conditions) if conditions else None
