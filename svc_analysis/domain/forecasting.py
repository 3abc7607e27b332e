"""Forecasts of one series or many: a status for each, and one bad series never stops the rest."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from millrace.errors import FieldInvalid, ResultTooLarge
from svc_analysis.domain.envelope import METHODS, Caution, Envelope, Floats, floats_of
from svc_analysis.domain.question import Plan, Planner, Question
from svc_analysis.domain.resolve import is_number
from svc_analysis.domain.series import Series, Unusable, even_series
from svc_analysis.ports import Engine, Statement, Statistics

MAX_HORIZON, MAX_SEASON, MAX_POINTS = 10_000, 10_000, 5_000_000
DEFAULT_LEVELS = (0.8, 0.95)
_FLUSH_ROWS = 5_000
_TIME = pa.timestamp("us", "UTC")


class Method(Enum):
    AUTO, SNAIVE, THETA = range(3)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastWish:
    """`season` 0: found from the step. `levels`: coverages of the intervals."""

    question: Question
    time: str
    value: str
    series: tuple[str, ...] = ()
    horizon: int = 1
    levels: tuple[float, ...] = DEFAULT_LEVELS
    season: int = 0
    method: Method = Method.AUTO


@dataclass(frozen=True, slots=True)
class Header:
    schema: pa.Schema
    plan: Plan


@dataclass(frozen=True, slots=True)
class Status:
    """How one series went. `key`: scalars in the order of `series`. `error` empty: it has rows."""

    key: tuple[pa.Scalar, ...]
    error: str
    envelope: Envelope


@dataclass(slots=True)
class End:
    row_count: int = 0
    series_ok: int = 0
    series_failed: int = 0


Event: TypeAlias = Header | pa.RecordBatch | Status | End


@dataclass(frozen=True, slots=True)
class _Points:
    """The rows of one series, ascending in time."""

    key: tuple[pa.Scalar, ...]
    rows: pa.Table


@dataclass(frozen=True, slots=True)
class _Forecast:
    method: str
    mean: Floats
    bounds: list[tuple[Floats, Floats]]
    cautions: tuple[Caution, ...] = ()


class Forecasts:
    """`series_limit`: most series of one request."""

    def __init__(self, planner: Planner, engine: Engine, statistics: Statistics, series_limit: int) -> None:
        self._planner, self._engine, self._statistics = planner, engine, statistics
        self._series_limit = series_limit

    async def events(self, wish: ForecastWish, *, deadline_s: float | None = None) -> AsyncGenerator[Event, None]:
        """Header, rows and statuses as series are done, End. Raises FieldInvalid, ResultTooLarge and what the engine raises."""
        _check(wish)
        plan = await self._planner.plan(wish.question)
        asked = await self._planner.columns(plan)
        schema = _result_schema(wish, asked)
        yield Header(schema, plan)
        end = End()
        held: list[pa.RecordBatch] = []
        async for points in self._points(wish, plan, deadline_s):
            if end.series_ok + end.series_failed >= self._series_limit:
                raise ResultTooLarge(f"more than {self._series_limit:,} series", field="series")
            status, rows = await asyncio.to_thread(self._one, wish, points, plan, schema)
            end.series_ok += rows is not None
            end.series_failed += rows is None
            if rows is not None:
                held.append(rows)
                end.row_count += rows.num_rows
            if sum(batch.num_rows for batch in held) >= _FLUSH_ROWS:
                yield _joined(held)
                held = []
            yield status
        if held:
            yield _joined(held)
        yield end

    async def _points(self, wish: ForecastWish, plan: Plan, deadline_s: float | None) -> AsyncGenerator[_Points, None]:
        """Series by series: the engine sorts, so that one series is held at a time."""
        columns = (*wish.series, wish.time, wish.value)
        sql = self._planner.arranged(plan.statement.sql, columns, (*wish.series, wish.time))
        opened = self._engine.open(Statement(sql, plan.statement.params), plan.tables, deadline_s=deadline_s)
        current: list[pa.RecordBatch] = []
        async with opened as result:
            async for batch in result:
                for part in _runs(batch, len(wish.series)):
                    if current and not _same_series(current[-1], part, len(wish.series)):
                        yield _gathered(current, len(wish.series))
                        current = []
                    current.append(part)
                    if sum(held.num_rows for held in current) > MAX_POINTS:
                        raise ResultTooLarge(f"a series has more than {MAX_POINTS:,} rows", field="observations")
        if current:
            yield _gathered(current, len(wish.series))

    def _one(
        self, wish: ForecastWish, points: _Points, plan: Plan, schema: pa.Schema
    ) -> tuple[Status, pa.RecordBatch | None]:
        version = METHODS["snaive"].version("")
        envelope = Envelope("", version, plan.versions, 0)
        try:
            series = _series(wish, points)
            forecast = self._forecast(wish, series)
        except Unusable as reason:
            return Status(points.key, reason.code, envelope), None
        library = self._statistics.version if forecast.method == "theta" else ""
        envelope = Envelope(
            method=forecast.method,
            method_version=METHODS[forecast.method].version(library),
            versions=plan.versions,
            n_used=series.n_used,
            n_dropped=series.n_dropped,
            cautions=(*series.cautions, *forecast.cautions),
        )
        rows = _rows(points.key, series, forecast, wish, schema)
        return Status(points.key, "", envelope), rows

    def _forecast(self, wish: ForecastWish, series: Series) -> _Forecast:
        values, cautions = series.values, []
        season = wish.season or series.step.season
        if len(values) < 2 * season + 1:
            if wish.season:
                raise Unusable("TOO_SHORT")
            text = f"{len(values)} values are too few for a season of {season}: forecast without one"
            cautions.append(Caution("SHORT_SERIES", text, {"n": float(len(values)), "season": float(season)}))
            season = 1
        if float(np.ptp(values)) == 0.0:
            constant = Caution("CONSTANT", "all values are the same: so is the forecast, without any spread", {})
            found = self._seasonal_naive(values, season, wish)
            return replace(found, cautions=(*cautions, constant))
        if wish.method is Method.SNAIVE or (wish.method is Method.AUTO and len(values) < 10):
            return replace(self._seasonal_naive(values, season, wish), cautions=tuple(cautions))
        try:
            mean, bounds = self._statistics.theta(values, season=season, horizon=wish.horizon, levels=wish.levels)
        except ValueError:
            failed = Caution("THETA_FAILED", "Theta could not be fitted: this is seasonal naive", {})
            found = self._seasonal_naive(values, season, wish)
            return replace(found, cautions=(*cautions, failed))
        return _Forecast("theta", mean, bounds, tuple(cautions))

    def _seasonal_naive(self, values: Floats, season: int, wish: ForecastWish) -> _Forecast:
        """The last season again. The spread of k seasons ahead is that of one season's differences times √k (a seasonal random walk)."""
        steps = np.arange(wish.horizon)
        mean = values[len(values) - season + steps % season]
        differences = values[season:] - values[:-season]
        spread = math.sqrt(float(np.mean(differences**2))) * np.sqrt(steps // season + 1)
        widths = [self._statistics.normal_interval(level) * spread for level in wish.levels]
        return _Forecast("snaive", mean, [(mean - width, mean + width) for width in widths])


def _check(wish: ForecastWish) -> None:
    if not 1 <= wish.horizon <= MAX_HORIZON:
        raise FieldInvalid(f"1 to {MAX_HORIZON:,} steps are expected", field="horizon")
    if not 0 <= wish.season <= MAX_SEASON:
        raise FieldInvalid(f"0 (found) to {MAX_SEASON:,} steps are expected", field="season_length")
    if not 1 <= len(wish.levels) <= 10:
        raise FieldInvalid("up to 10 levels are expected", field="levels")
    for index, level in enumerate(wish.levels):
        if not 0 < level < 1 or level in wish.levels[:index]:
            raise FieldInvalid("different coverages above 0 and below 1 are expected", field=f"levels[{index}]")
    names = (*wish.series, wish.time, wish.value)
    if len(set(names)) != len(names):
        raise FieldInvalid("time, value and series are different columns", field="series")


def level_name(level: float) -> str:
    """0.8 → "80", 0.975 → "97_5"."""
    return f"{level * 100:.6f}".rstrip("0").rstrip(".").replace(".", "_")


def _result_schema(wish: ForecastWish, asked: pa.Schema) -> pa.Schema:
    for name, field in (
        (wish.time, "time"),
        (wish.value, "value"),
        *((s, f"series[{i}]") for i, s in enumerate(wish.series)),
    ):
        if name not in asked.names:
            raise FieldInvalid(f"the question's result has no column `{name}`", field=field)
    kind = asked.field(wish.time).type
    if not (pa.types.is_timestamp(kind) and kind.tz):
        raise FieldInvalid(f"column `{wish.time}` is {kind}; a timestamp is expected", field="time")
    if not is_number(asked.field(wish.value).type):
        raise FieldInvalid(
            f"column `{wish.value}` is {asked.field(wish.value).type}; a number is expected", field="value"
        )
    fields = [asked.field(name) for name in wish.series]
    fields += [pa.field(wish.time, _TIME, nullable=False), pa.field("mean", pa.float64(), nullable=False)]
    for level in wish.levels:
        fields += [pa.field(f"{side}_{level_name(level)}", pa.float64(), nullable=False) for side in ("low", "high")]
    names = [field.name for field in fields]
    if len(set(names)) != len(names):
        raise FieldInvalid("a series column has the name of a column of the result", field="series")
    return pa.schema(fields)


def _series(wish: ForecastWish, points: _Points) -> Series:
    times = points.rows[wish.time]
    known = times.is_valid()
    rows = points.rows.filter(known)
    micros = rows[wish.time].cast(_TIME).cast(pa.int64()).to_numpy()
    values = floats_of(rows[wish.value], "value")
    series = even_series(micros, values, np.asarray(rows[wish.value].is_null().to_numpy(), dtype=bool))
    if (without := points.rows.num_rows - rows.num_rows) > 0:
        series = replace(series, n_dropped={**series.n_dropped, "NULL": series.n_dropped.get("NULL", 0) + without})
    return series


def _rows(
    key: Sequence[pa.Scalar], series: Series, forecast: _Forecast, wish: ForecastWish, schema: pa.Schema
) -> pa.RecordBatch:
    times = series.step.after(series.last_us, wish.horizon)
    columns: list[Any] = [pa.repeat(scalar, wish.horizon) for scalar in key]
    columns += [pa.array(times, pa.int64()).cast(_TIME), pa.array(forecast.mean)]
    for low, high in forecast.bounds:
        columns += [pa.array(low), pa.array(high)]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


# -- cutting the sorted rows into series -----------------------------------------------------------------------------------
def _runs(batch: pa.RecordBatch, keys: int) -> Iterator[pa.RecordBatch]:
    """Slices of equal keys."""
    if not batch.num_rows:
        return
    starts = [0]
    if keys:
        pairs = list(zip(*(batch.column(i).to_pylist() for i in range(keys)), strict=True))
        starts += [at for at in range(1, len(pairs)) if pairs[at] != pairs[at - 1]]
    for start, stop in zip(starts, [*starts[1:], batch.num_rows], strict=True):
        yield batch.slice(start, stop - start)


def _same_series(one: pa.RecordBatch, two: pa.RecordBatch, keys: int) -> bool:
    return all(one.column(i)[0].as_py() == two.column(i)[0].as_py() for i in range(keys))


def _gathered(parts: list[pa.RecordBatch], keys: int) -> _Points:
    return _Points(tuple(parts[0].column(i)[0] for i in range(keys)), pa.Table.from_batches(parts))


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return pa.Table.from_batches(batches).combine_chunks().to_batches()[0]
