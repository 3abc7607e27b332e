"""FitRegression and ForecastSeries: requests to the domain's wishes, results to messages."""

from __future__ import annotations

from millrace.analysis.v1 import statistics_pb2
from millrace.errors import FieldInvalid
from millrace.types.v1 import types_pb2
from millrace.wire.schema import schema_to_proto
from millrace.wire.values import value_to_proto
from svc_analysis.convert.queries import beat
from svc_analysis.convert.specs import question_from
from svc_analysis.domain.envelope import Envelope, Estimate, Undefined
from svc_analysis.domain.forecasting import DEFAULT_LEVELS, End, ForecastWish, Header, Method, Status
from svc_analysis.domain.regression import Coefficient, Regression, RegressionWish

_METHODS = {
    statistics_pb2.FORECAST_METHOD_UNSPECIFIED: Method.AUTO,
    statistics_pb2.FORECAST_METHOD_SEASONAL_NAIVE: Method.SNAIVE,
    statistics_pb2.FORECAST_METHOD_THETA: Method.THETA,
}


# -- regression --------------------------------------------------------------------------------------------------------------
def regression_from(request: statistics_pb2.FitRegressionRequest) -> RegressionWish:
    return RegressionWish(
        question=question_from(request.observations, field="observations."),
        response=request.response,
        predictors=tuple(request.predictors),
        intercept=not request.no_intercept,
        confidence=request.confidence or 0.95,
    )


def regression_response(found: Regression) -> statistics_pb2.FitRegressionResponse:
    return statistics_pb2.FitRegressionResponse(
        envelope=_envelope(found.envelope),
        coefficients=map(_coefficient, found.coefficients),
        r_squared=_estimate(found.r_squared),
        adjusted_r_squared=_estimate(found.adjusted_r_squared),
        f=_estimate(found.f),
        f_p=_estimate(found.f_p),
        residual_sd=_estimate(found.residual_sd),
        aic=_estimate(found.aic),
        residual_df=found.residual_df,
    )


def _coefficient(found: Coefficient) -> statistics_pb2.Coefficient:
    return statistics_pb2.Coefficient(
        name=found.name,
        estimate=_estimate(found.estimate),
        standard_error=_estimate(found.standard_error),
        ci_low=_estimate(found.ci_low),
        ci_high=_estimate(found.ci_high),
        t=_estimate(found.t),
        p=_estimate(found.p),
    )


def _estimate(found: Estimate) -> statistics_pb2.Estimate:
    if isinstance(found, Undefined):
        return statistics_pb2.Estimate(undefined=found.why)
    return statistics_pb2.Estimate(value=found)


def _envelope(found: Envelope) -> statistics_pb2.ResultEnvelope:
    return statistics_pb2.ResultEnvelope(
        method=found.method,
        method_version=found.method_version,
        versions=dict(found.versions),
        n_used=found.n_used,
        n_dropped=dict(found.n_dropped),
        seed=found.seed,
        warnings=[
            statistics_pb2.StatisticsWarning(code=caution.code, text=caution.text, values=dict(caution.values))
            for caution in found.cautions
        ],
    )


# -- forecasts ---------------------------------------------------------------------------------------------------------------
def forecast_from(request: statistics_pb2.ForecastSeriesRequest) -> ForecastWish:
    if request.method not in _METHODS:
        raise FieldInvalid("SEASONAL_NAIVE or THETA is expected", field="method")
    return ForecastWish(
        question=question_from(request.observations, field="observations."),
        time=request.time,
        value=request.value,
        series=tuple(request.series),
        horizon=request.horizon,
        levels=tuple(request.levels) or DEFAULT_LEVELS,
        season=request.season_length,
        method=_METHODS[request.method],
    )


def forecast_header(header: Header) -> statistics_pb2.ForecastSeriesResponse:
    found = statistics_pb2.ForecastHeader(schema=schema_to_proto(header.schema), versions=header.plan.versions)
    return statistics_pb2.ForecastSeriesResponse(header=found)


def forecast_rows(batch: types_pb2.Batch) -> statistics_pb2.ForecastSeriesResponse:
    return statistics_pb2.ForecastSeriesResponse(batch=batch)


def forecast_status(status: Status) -> statistics_pb2.ForecastSeriesResponse:
    found = statistics_pb2.SeriesStatus(
        key=[value_to_proto(scalar) for scalar in status.key],
        ok=not status.error,
        error=status.error,
        envelope=_envelope(status.envelope),
    )
    return statistics_pb2.ForecastSeriesResponse(status=found)


def forecast_end(end: End) -> statistics_pb2.ForecastSeriesResponse:
    found = statistics_pb2.ForecastEnd(
        row_count=end.row_count, series_ok=end.series_ok, series_failed=end.series_failed
    )
    return statistics_pb2.ForecastSeriesResponse(end=found)


def forecast_heartbeat() -> statistics_pb2.ForecastSeriesResponse:
    return statistics_pb2.ForecastSeriesResponse(heartbeat=beat())
