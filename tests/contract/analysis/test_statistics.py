"""FitRegression and ForecastSeries: certified numbers, and a typed reason for every degenerate input."""

from __future__ import annotations

import datetime as dt
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest

from millrace import errors
from millrace.analysis.v1 import statistics_pb2
from millrace.client.status import error_of
from millrace.types.v1 import types_pb2
from millrace.wire.batch import read_batch
from millrace.wire.schema import schema_from_proto
from millrace.wire.values import python_from_proto
from tests.contract.analysis.conftest import Analysis

TABLE = "namespaces/default/tables/obs"
NIST = Path(__file__).parents[2] / "data" / "nist_linear.json"
START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)


async def fill(analysis: Analysis, columns: dict[str, Any], schema: pa.Schema | None = None) -> None:
    table = pa.table(columns, schema=schema)
    await analysis.files.create(TABLE, table.schema)
    await analysis.files.append(TABLE, table)


async def fit(analysis: Analysis, predictors: list[str], **fields: Any) -> statistics_pb2.FitRegressionResponse:
    fields.setdefault("observations", {"sql": {"text": "select * from obs"}})
    fields.setdefault("response", "y")
    request = statistics_pb2.FitRegressionRequest(predictors=predictors, **fields)
    try:
        return await analysis.stub().FitRegression(request)  # type: ignore[no-any-return]
    except Exception as error:
        raise error_of(error) from error


def digits(found: float, certified: float) -> float:
    if found == certified:
        return 15.0
    return -math.log10(abs(found - certified) / abs(certified) if certified else abs(found))


def sets() -> list[tuple[str, float, float]]:
    """Digits that this first form reaches (statsmodels' QR on scaled columns): coefficients, standard errors."""
    reached = {
        "Wampler2": (11, 9),
        "Wampler3": (9, 10),
        "Wampler4": (7.5, 10),
        "Wampler5": (5.5, 10),
        "Longley": (10, 8.5),
        "Filip": (0, 0),
    }
    names = list(json.loads(NIST.read_text())["datasets"])
    return [(name, *reached.get(name, (9.0, 9.0))) for name in names]


@pytest.mark.parametrize(("name", "coefficient_digits", "error_digits"), sets())
async def test_nist_linear_sets(analysis: Analysis, name: str, coefficient_digits: float, error_digits: float) -> None:
    entry = json.loads(NIST.read_text())["datasets"][name]
    xs = {key: entry[key] for key in ("x", *(f"x{i}" for i in range(1, 7))) if entry.get(key)}
    columns: dict[str, Any] = {
        "y": [float(v) for v in entry["y"]],
        **{k: [float(v) for v in vs] for k, vs in xs.items()},
    }
    terms = [term for term in entry["terms"] if term != "1"]
    for term in terms:
        if "^" in term:
            base, power = term.split("^")
            columns[f"{base}_{power}"] = [float(v) ** int(power) for v in xs[base]]
    await fill(analysis, columns)
    found = await fit(analysis, [term.replace("^", "_") for term in terms], no_intercept=not entry["intercept"])
    certified = entry["certified"]
    pairs = list(zip(found.coefficients, certified["coef"], certified["coef_se"], strict=True))
    assert min(digits(c.estimate.value, value) for c, value, _ in pairs) >= coefficient_digits
    errors_found = [digits(c.standard_error.value, se) for c, _, se in pairs if se]
    assert min(errors_found, default=15) >= error_digits
    assert found.envelope.n_used == entry["n"]


async def test_what_is_dropped_is_counted(analysis: Analysis) -> None:
    await fill(
        analysis, {"y": [1.0, 2.0, None, 4.5, 5.0, 6.0, 7.5], "x": [1.0, 2.0, 3.0, 4.0, math.nan, math.inf, 7.0]}
    )
    found = await fit(analysis, ["x"])
    assert dict(found.envelope.n_dropped) == {"NULL": 1, "NAN": 1, "INFINITE": 1}
    assert found.envelope.n_used == 4
    assert found.envelope.method == "ols"
    assert "statsmodels" in found.envelope.method_version
    assert dict(found.envelope.versions) == {TABLE: 1}
    assert found.coefficients[1].p.value < 0.05
    assert (
        found.coefficients[1].ci_low.value < found.coefficients[1].estimate.value < found.coefficients[1].ci_high.value
    )


async def test_aliased_columns_are_named(analysis: Analysis) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=50)
    await fill(analysis, {"y": x + rng.normal(size=50), "x": x, "twice": 2 * x, "one": np.ones(50)})
    found = await fit(analysis, ["x", "twice", "one"])
    assert [c.estimate.undefined for c in found.coefficients] == ["", "", *["aliased with other columns"] * 2]
    warning = found.envelope.warnings[0]
    assert warning.code == "ALIASED_COLUMNS"
    assert "`twice`" in warning.text
    assert "`one`" in warning.text


@pytest.mark.parametrize(
    ("y", "x", "what", "why"),
    [
        ([], [], "estimate", "no observations"),
        ([1.0], [1.0], "estimate", "fewer observations than coefficients"),
        ([1.0, 2.0], [1.0, 2.0], "standard_error", "no residual degrees of freedom"),
        ([None, None], [1.0, 2.0], "estimate", "no observations"),
        ([3.0, 3.0, 3.0, 3.0], [1.0, 2.0, 3.0, 4.0], "r_squared", "zero variance of the response"),
        ([1.0, 2.0, 3.0, 5.0], [2.0, 2.0, 2.0, 2.0], "estimate", "aliased with other columns"),
        ([2.0, 4.0, 6.0, 8.0], [1.0, 2.0, 3.0, 4.0], "aic", "the fit is exact"),
    ],
)
async def test_degenerate_input_gives_a_reason(
    analysis: Analysis, y: list[Any], x: list[Any], what: str, why: str
) -> None:
    await fill(analysis, {"y": pa.array(y, pa.float64()), "x": pa.array(x, pa.float64())})
    found = await fit(analysis, ["x"])
    place = found.coefficients[-1] if what in ("estimate", "standard_error") else found
    assert getattr(place, what).undefined == why
    assert "nan" not in str(found).lower()


async def test_warnings_of_the_fit(analysis: Analysis) -> None:
    rng = np.random.default_rng(2)
    x = np.linspace(1, 10, 300)
    await fill(analysis, {"y": x + rng.normal(size=300) * x**2, "x": x})
    assert "HETEROSCEDASTIC" in [w.code for w in (await fit(analysis, ["x"])).envelope.warnings]
    await fill(analysis, {"y": x + np.sin(x * 2), "x": x})
    assert "AUTOCORRELATED" in [w.code for w in (await fit(analysis, ["x"])).envelope.warnings]
    await fill(analysis, {"y": [*rng.normal(size=30), 9.0], "x": [*rng.normal(size=30), 1000.0]})
    assert "HIGH_LEVERAGE" in [w.code for w in (await fit(analysis, ["x"])).envelope.warnings]


@pytest.mark.parametrize(
    ("fields", "kind", "field"),
    [
        ({"predictors": []}, errors.FieldRequired, "predictors"),
        ({"predictors": ["nope"]}, errors.FieldInvalid, "predictors[0]"),
        ({"predictors": ["x", "x"]}, errors.FieldInvalid, "predictors[1]"),
        ({"predictors": ["x"], "response": "nope"}, errors.FieldInvalid, "response"),
        ({"predictors": ["s"]}, errors.FieldInvalid, "s"),
        ({"predictors": ["x"], "confidence": 2.0}, errors.FieldInvalid, "confidence"),
        ({"predictors": ["x"], "observations": {}}, errors.FieldRequired, "observations.spec|sql"),
    ],
)
async def test_a_bad_regression_names_its_fault(
    analysis: Analysis, fields: dict[str, Any], kind: type[errors.MillraceError], field: str
) -> None:
    await fill(analysis, {"y": [1.0, 2.0], "x": [1.0, 2.0], "s": ["a", "b"]})
    with pytest.raises(kind) as refused:
        await fit(analysis, **fields)
    assert type(refused.value) is kind
    assert refused.value.field == field


# -- forecasts -----------------------------------------------------------------------------------------------------------------
@dataclass(slots=True)
class Forecast:
    rows: list[dict[str, Any]]
    statuses: dict[tuple[Any, ...], statistics_pb2.SeriesStatus]
    end: statistics_pb2.ForecastEnd
    names: list[str] = field(default_factory=list)


async def forecast(analysis: Analysis, **fields: Any) -> Forecast:
    fields.setdefault("observations", {"sql": {"text": "select * from obs"}})
    fields.setdefault("time", "ts")
    fields.setdefault("value", "v")
    fields.setdefault("horizon", 3)
    request = statistics_pb2.ForecastSeriesRequest(encoding=types_pb2.ENCODING_ARROW, **fields)
    found = Forecast([], {}, statistics_pb2.ForecastEnd())
    schema, ended = pa.schema([]), False
    try:
        async for message in analysis.stub().ForecastSeries(request):
            match message.WhichOneof("message"):
                case "header":
                    schema = schema_from_proto(message.header.schema)
                    found.names = schema.names
                case "batch":
                    found.rows += read_batch(message.batch, schema).to_pylist()
                case "status":
                    found.statuses[tuple(map(python_from_proto, message.status.key))] = message.status
                case "end":
                    found.end, ended = message.end, True
    except Exception as error:
        raise error_of(error) from error
    assert ended
    return found


def hours(count: int, step: dt.timedelta = dt.timedelta(hours=1)) -> list[dt.datetime]:
    return [START + step * i for i in range(count)]


TS = pa.timestamp("us", "UTC")


async def test_a_seasonal_series_is_continued_with_its_bounds(analysis: Analysis) -> None:
    rng = np.random.default_rng(3)
    values = [20 + 5 * math.sin(2 * math.pi * i / 24) + rng.normal() * 0.3 for i in range(240)]
    await fill(analysis, {"ts": pa.array(hours(240), TS), "v": values})
    for method, name in ((0, "theta"), (1, "snaive"), (2, "theta")):
        found = await forecast(analysis, horizon=48, method=method)
        assert found.names == ["ts", "mean", "low_80", "high_80", "low_95", "high_95"]
        assert len(found.rows) == found.end.row_count == 48
        assert found.rows[0]["ts"] == START + dt.timedelta(hours=240)
        assert found.statuses[()].envelope.method == name
        assert found.statuses[()].envelope.n_used == 240
        for i, row in enumerate(found.rows):
            assert abs(row["mean"] - (20 + 5 * math.sin(2 * math.pi * i / 24))) < 2.5
            assert row["low_95"] < row["low_80"] < row["mean"] < row["high_80"] < row["high_95"]


async def test_one_bad_series_of_many_leaves_the_others(analysis: Analysis) -> None:
    names: list[str] = []
    times: list[dt.datetime | None] = []
    values: list[float | None] = []

    def add(name: str, ts: list[dt.datetime], vs: list[float | None]) -> None:
        names.extend([name] * len(ts))
        times.extend(ts)
        values.extend(vs)

    add("constant", hours(60), [5.0] * 60)
    add("doubled", [*hours(30), hours(30)[-1]], [float(i) for i in range(31)])
    add("empty", hours(30), [None] * 30)
    add("gap", [t for i, t in enumerate(hours(60)) if i not in (7, 8)], [float(i % 5) for i in range(58)])
    add("good", hours(60), [float(i % 7) for i in range(60)])
    add("infinite", hours(60), [math.inf if i == 3 else float(i % 7) for i in range(60)])
    add("nan", hours(60), [math.nan if i == 3 else float(i % 7) for i in range(60)])
    add("short", hours(2), [1.0, 2.0])
    add("uneven", [*hours(20), START + dt.timedelta(hours=20, minutes=7)], [float(i) for i in range(21)])
    order = np.random.default_rng(4).permutation(len(names))
    columns = {
        "name": [names[i] for i in order],
        "ts": pa.array([times[i] for i in order], TS),
        "v": [values[i] for i in order],
    }
    await fill(analysis, columns)
    found = await forecast(analysis, series=["name"])
    outcome = {
        key[0]: (status.error, [w.code for w in status.envelope.warnings]) for key, status in found.statuses.items()
    }
    assert outcome["doubled"][0] == "DUPLICATE_TIME"
    assert outcome["empty"][0] == "NO_VALUES"
    assert outcome["short"][0] == "TOO_SHORT"
    assert outcome["uneven"][0] == "NOT_EVEN"
    assert outcome["constant"] == ("", ["CONSTANT"])
    assert outcome["gap"] == ("", ["GAPS"])
    assert outcome["good"] == ("", [])
    assert dict(found.statuses[("nan",)].envelope.n_dropped) == {"NAN": 1}
    assert dict(found.statuses[("infinite",)].envelope.n_dropped) == {"INFINITE": 1}
    assert (found.end.series_ok, found.end.series_failed) == (5, 4)
    assert all(math.isfinite(row["mean"]) and math.isfinite(row["low_95"]) for row in found.rows)
    constant = [row for row in found.rows if row["name"] == "constant"]
    assert [(row["mean"], row["low_95"], row["high_95"]) for row in constant] == [(5.0, 5.0, 5.0)] * 3


async def test_months_and_local_days_are_even(analysis: Analysis) -> None:
    months = [dt.datetime(2020 + i // 12, i % 12 + 1, 1, tzinfo=dt.UTC) for i in range(40)]
    await fill(analysis, {"ts": pa.array(months, TS), "v": [float(i % 12) for i in range(40)]})
    found = await forecast(analysis, method=1)
    assert [row["ts"].month for row in found.rows] == [5, 6, 7]
    assert [row["mean"] for row in found.rows] == [4.0, 5.0, 6.0], "the same month a year ago"
    zone = ZoneInfo("America/New_York")
    days = [dt.datetime(2024, 3, 1, tzinfo=zone) + dt.timedelta(days=i) for i in range(30)]
    await fill(
        analysis, {"ts": pa.array([d.astimezone(dt.UTC) for d in days], TS), "v": [float(i % 7) for i in range(30)]}
    )
    found = await forecast(analysis, method=1)
    assert [row["mean"] for row in found.rows] == [2.0, 3.0, 4.0], "the same day a week ago, across a clock change"


async def test_levels_and_season_are_the_callers(analysis: Analysis) -> None:
    await fill(analysis, {"ts": pa.array(hours(40), TS), "v": [float(i % 4) for i in range(40)]})
    found = await forecast(analysis, levels=[0.5, 0.975], season_length=4, method=1, horizon=4)
    assert found.names == ["ts", "mean", "low_50", "high_50", "low_97_5", "high_97_5"]
    assert [row["mean"] for row in found.rows] == [0.0, 1.0, 2.0, 3.0]
    short = await forecast(analysis, season_length=30)
    assert short.statuses[()].error == "TOO_SHORT"


@pytest.mark.parametrize(
    ("fields", "kind", "field"),
    [
        ({"horizon": 0}, errors.FieldRequired, "horizon"),
        ({"horizon": 10_001}, errors.FieldInvalid, "horizon"),
        ({"levels": [1.5]}, errors.FieldInvalid, "levels[0]"),
        ({"season_length": -1}, errors.FieldInvalid, "season_length"),
        ({"time": "v"}, errors.FieldInvalid, "series"),
        ({"time": "nope"}, errors.FieldInvalid, "time"),
        ({"value": "name"}, errors.FieldInvalid, "value"),
        ({"series": ["nope"]}, errors.FieldInvalid, "series[0]"),
        ({"method": 7}, errors.FieldInvalid, "method"),
    ],
)
async def test_a_bad_forecast_names_its_fault(
    analysis: Analysis, fields: dict[str, Any], kind: type[errors.MillraceError], field: str
) -> None:
    await fill(analysis, {"ts": pa.array(hours(3), TS), "v": [1.0, 2.0, 3.0], "name": ["a", "a", "a"]})
    with pytest.raises(kind) as refused:
        await forecast(analysis, **fields)
    assert type(refused.value) is kind
    assert refused.value.field == field
