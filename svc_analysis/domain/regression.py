"""Ordinary least squares over the rows of a question. Degenerate input gives a reason, never a NaN."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from millrace.errors import FieldInvalid, FieldRequired, ResultTooLarge
from svc_analysis.domain.envelope import METHODS, Caution, Envelope, Estimate, Floats, Undefined, estimate, floats_of
from svc_analysis.domain.question import Plan, Planner, Question
from svc_analysis.ports import Engine, LeastSquares, Statement, Statistics

INTERCEPT = "(intercept)"
MAX_PREDICTORS, MAX_CELLS = 50, 25_000_000
ALIASED = 1e-13
"""A column whose part that the others do not explain is smaller than this share of it says nothing of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegressionWish:
    question: Question
    response: str
    predictors: tuple[str, ...]
    intercept: bool = True
    confidence: float = 0.95


@dataclass(frozen=True, slots=True)
class Coefficient:
    name: str
    estimate: Estimate
    standard_error: Estimate
    ci_low: Estimate
    ci_high: Estimate
    t: Estimate
    p: Estimate


@dataclass(frozen=True, slots=True)
class Regression:
    """`residual_df` below 0 never: 0 when there are no more rows than coefficients."""

    envelope: Envelope
    coefficients: tuple[Coefficient, ...]
    r_squared: Estimate
    adjusted_r_squared: Estimate
    f: Estimate
    f_p: Estimate
    residual_sd: Estimate
    aic: Estimate
    residual_df: int


class Regressions:
    """Fits regressions."""

    def __init__(self, planner: Planner, engine: Engine, statistics: Statistics) -> None:
        self._planner, self._engine, self._statistics = planner, engine, statistics

    async def fit(self, wish: RegressionWish, *, deadline_s: float | None = None) -> Regression:
        """Raises FieldInvalid, FieldRequired, ResultTooLarge and what planning and the engine raise."""
        _check(wish)
        plan = await self._planner.plan(wish.question)
        columns = (wish.response, *wish.predictors)
        schema = await self._planner.columns(plan)
        for index, name in enumerate(columns):
            if name not in schema.names:
                field = f"predictors[{index - 1}]" if index else "response"
                raise FieldInvalid(f"the question's result has no column `{name}`", field=field)
        table = await self._observations(plan, columns, deadline_s)
        return await asyncio.to_thread(self._fit, wish, table, plan)

    async def _observations(self, plan: Plan, columns: Sequence[str], deadline_s: float | None) -> pa.Table:
        sql = self._planner.arranged(plan.statement.sql, columns, ())
        batches: list[pa.RecordBatch] = []
        cells = 0
        opened = self._engine.open(Statement(sql, plan.statement.params), plan.tables, deadline_s=deadline_s)
        async with opened as result:
            async for batch in result:
                cells += batch.num_rows * batch.num_columns
                if cells > MAX_CELLS:
                    raise ResultTooLarge(
                        f"more than {MAX_CELLS:,} numbers", field="observations", hint="sample the rows"
                    )
                batches.append(batch)
            return pa.Table.from_batches(batches, result.schema)

    def _fit(self, wish: RegressionWish, table: pa.Table, plan: Plan) -> Regression:
        columns = [floats_of(table[name], name) for name in (wish.response, *wish.predictors)]
        data = np.column_stack(columns) if table.num_rows else np.zeros((0, len(columns)))
        nulls = [np.asarray(table[name].is_null().to_numpy(), dtype=np.bool_) for name in table.column_names]
        dropped, kept = _clean(data, np.logical_or.reduce(nulls))
        response, names, design = _design(data[kept], wish)
        aliased = _aliased(design)
        used = [index for index in range(len(names)) if index not in aliased]
        cautions = [_alias_caution([names[index] for index in sorted(aliased)])] if aliased else []
        envelope = Envelope(
            method="ols",
            method_version=METHODS["ols"].version(self._statistics.version),
            versions=plan.versions,
            n_used=len(response),
            n_dropped=dropped,
        )
        if not len(response):
            return _nothing(envelope, names, "no observations", [])
        if aliased and len(used) == len(response):  # they only look aliased: there is nothing to tell them apart by
            return _nothing(envelope, names, "fewer observations than coefficients", [])
        if not used:
            return _nothing(envelope, names, "aliased with other columns", cautions)
        fit = self._statistics.least_squares(response, design[:, used], wish.intercept, wish.confidence)
        cautions += _cautions(fit, len(used))
        return _result(_with(envelope, cautions), names, used, fit, response, wish)


def _check(wish: RegressionWish) -> None:
    if not 1 <= len(wish.predictors) <= MAX_PREDICTORS:
        raise FieldInvalid(f"1 to {MAX_PREDICTORS} predictors are expected", field="predictors")
    if not wish.response:
        raise FieldRequired("name the dependent column", field="response")
    for index, name in enumerate(wish.predictors):
        if name == wish.response or name in wish.predictors[:index]:
            raise FieldInvalid(f"`{name}` is there twice", field=f"predictors[{index}]")
    if not 0 < wish.confidence < 1:
        raise FieldInvalid("a coverage above 0 and below 1 is expected", field="confidence")


def _clean(data: Floats, nulls: npt.NDArray[np.bool_]) -> tuple[dict[str, int], npt.NDArray[np.bool_]]:
    nans = np.isnan(data).any(axis=1) & ~nulls
    infinite = np.isinf(data).any(axis=1) & ~nulls & ~nans
    counts = {"NULL": int(nulls.sum()), "NAN": int(nans.sum()), "INFINITE": int(infinite.sum())}
    return {reason: count for reason, count in counts.items() if count}, ~(nulls | nans | infinite)


def _design(data: Floats, wish: RegressionWish) -> tuple[Floats, list[str], Floats]:
    names = [*([INTERCEPT] if wish.intercept else []), *wish.predictors]
    parts = [data[:, 1:]]
    if wish.intercept:
        parts.insert(0, np.ones((len(data), 1)))
    return data[:, 0], names, np.hstack(parts)


def _aliased(design: Floats) -> set[int]:
    """Columns that earlier ones explain, found in order: the first of two equal columns stays."""
    basis: list[Floats] = []
    found: set[int] = set()
    for index in range(design.shape[1]):
        column = design[:, index]
        scale = float(np.max(np.abs(column), initial=0.0))
        if scale == 0.0:
            found.add(index)
            continue
        rest = column / scale
        size = float(np.linalg.norm(rest))
        for _ in range(2):  # a second pass removes what rounding left of the first
            for direction in basis:
                rest = rest - direction * float(direction @ rest)
        left = float(np.linalg.norm(rest))
        if left <= ALIASED * size or len(basis) >= len(column):
            found.add(index)
        else:
            basis.append(rest / left)
    return found


def _alias_caution(names: list[str]) -> Caution:
    listed = ", ".join(f"`{name}`" for name in names)
    text = f"{listed} can be written by the other columns and got no coefficient"
    return Caution("ALIASED_COLUMNS", text, {"columns": float(len(names))})


def _cautions(fit: LeastSquares, columns: int) -> list[Caution]:
    found: list[Caution] = []
    n = len(fit.residuals)
    threshold = 3 * columns / n
    high = int((fit.leverage > threshold).sum())
    if high and n > 3 * columns and float(fit.leverage.max()) > 0.5:
        values = {"observations": float(high), "largest": float(fit.leverage.max())}
        found.append(Caution("HIGH_LEVERAGE", f"{high} observations alone decide much of the fit", values))
    if math.isfinite(fit.breusch_pagan_p) and fit.breusch_pagan_p < 0.01:
        text = "the residuals' spread depends on the predictors (Breusch-Pagan): standard errors are too optimistic or pessimistic"
        found.append(Caution("HETEROSCEDASTIC", text, {"p": float(fit.breusch_pagan_p)}))
    if fit.rss > 0 and n > columns + 1:
        watson = float(np.sum(np.diff(fit.residuals) ** 2) / fit.rss)
        if not 1.0 <= watson <= 3.0:
            text = "residuals of neighbouring rows are related, in the order of the rows (Durbin-Watson)"
            found.append(Caution("AUTOCORRELATED", text, {"durbin_watson": watson}))
    return found


def _with(envelope: Envelope, cautions: list[Caution]) -> Envelope:
    return Envelope(
        envelope.method,
        envelope.method_version,
        envelope.versions,
        envelope.n_used,
        envelope.n_dropped,
        tuple(cautions),
    )


def _nothing(envelope: Envelope, names: list[str], why: str, cautions: list[Caution]) -> Regression:
    none = Undefined(why)
    coefficients = tuple(Coefficient(name, none, none, none, none, none, none) for name in names)
    return Regression(_with(envelope, cautions), coefficients, none, none, none, none, none, none, 0)


def _result(
    envelope: Envelope, names: list[str], used: list[int], fit: LeastSquares, response: Floats, wish: RegressionWish
) -> Regression:
    n, k = len(response), len(used)
    df = n - k
    centred = response - response.mean() if wish.intercept else response
    tss = float(centred @ centred)
    constant = float(np.ptp(response)) == 0.0 if wish.intercept else tss == 0.0
    # What is left after an exact fit is rounding, not spread.
    exact = bool(fit.rss <= (n * np.finfo(float).eps) ** 2 * max(float(response @ response), np.finfo(float).tiny))
    no_df, none = Undefined("no residual degrees of freedom"), Undefined("zero variance of the response")
    r_squared: Estimate = none if constant else 1.0 - fit.rss / tss
    adjusted: Estimate = r_squared if isinstance(r_squared, Undefined) else no_df
    if not isinstance(r_squared, Undefined) and df > 0:
        adjusted = 1.0 - (1.0 - r_squared) * (n - int(wish.intercept)) / df
    f, f_p = _f(fit, k - int(wish.intercept), df, exact=exact, constant=constant)
    spread = math.sqrt(fit.rss / df) if df > 0 else math.nan
    likely = n * (math.log(2 * math.pi) + math.log(fit.rss / n) + 1) + 2 * k if fit.rss > 0 and not exact else math.nan
    place = {column: at for at, column in enumerate(used)}
    return Regression(
        envelope=envelope,
        coefficients=tuple(_coefficient(name, place.get(i), fit, df, exact) for i, name in enumerate(names)),
        r_squared=r_squared,
        adjusted_r_squared=adjusted,
        f=f,
        f_p=f_p,
        residual_sd=estimate(spread, no_df.why),
        aic=estimate(likely, "the fit is exact"),
        residual_df=df,
    )


def _coefficient(name: str, at: int | None, fit: LeastSquares, df: int, exact: bool) -> Coefficient:
    if at is None:
        none = Undefined("aliased with other columns")
        return Coefficient(name, none, none, none, none, none, none)
    why = "no residual degrees of freedom" if df == 0 else "zero variance of the residuals"
    if df == 0 or exact:
        none = Undefined(why)
        return Coefficient(name, estimate(fit.coefficients[at], "overflow"), none, none, none, none, none)
    values = (fit.coefficients, fit.standard_errors, fit.ci_low, fit.ci_high, fit.t, fit.p)
    numbers = [estimate(float(array[at]), why) for array in values]
    return Coefficient(name, *numbers)


def _f(fit: LeastSquares, model_df: int, df: int, *, exact: bool, constant: bool) -> tuple[Estimate, Estimate]:
    why = ""
    if model_df < 1:
        why = "no predictor is left"
    elif df < 1:
        why = "no residual degrees of freedom"
    elif constant:
        why = "zero variance of the response"
    elif exact:
        why = "zero variance of the residuals"
    if why:
        return Undefined(why), Undefined(why)
    return estimate(fit.f, "overflow"), estimate(fit.f_p, "overflow")
