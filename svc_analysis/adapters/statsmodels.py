"""statsmodels behind `svc_analysis.ports.Statistics`. It takes seconds to load, so it is imported with the first statistic."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from importlib import metadata
from statistics import NormalDist

import numpy as np

from svc_analysis.ports import Floats, LeastSquares


class Statsmodels:
    """Blocking, CPU."""

    def __init__(self) -> None:
        self.version = f"statsmodels {metadata.version('statsmodels')}"

    def least_squares(self, response: Floats, design: Floats, intercept: bool, confidence: float) -> LeastSquares:
        from statsmodels.regression.linear_model import OLS
        from statsmodels.stats.diagnostic import het_breuschpagan

        # Powers of two change no digit and keep columns of very different size from drowning each other.
        scale = 2.0 ** -np.frexp(np.abs(design).max(axis=0))[1]
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            fit = OLS(response, design * scale, hasconst=intercept).fit(method="qr")
            orthonormal, _ = np.linalg.qr(design * scale)
            bounds = fit.conf_int(1 - confidence)
            residuals = np.asarray(fit.resid)
            spread = math.nan
            if intercept and design.shape[1] > 1 and len(response) > design.shape[1] + 1 and residuals.any():
                spread = float(het_breuschpagan(residuals, design * scale)[1])
            return LeastSquares(
                coefficients=np.asarray(fit.params) * scale,
                standard_errors=np.asarray(fit.bse) * scale,
                ci_low=np.asarray(bounds)[:, 0] * scale,
                ci_high=np.asarray(bounds)[:, 1] * scale,
                t=np.asarray(fit.tvalues),
                p=np.asarray(fit.pvalues),
                residuals=residuals,
                leverage=np.sum(orthonormal**2, axis=1),
                rss=float(residuals @ residuals),
                f=float(fit.fvalue),
                f_p=float(fit.f_pvalue),
                breusch_pagan_p=spread,
            )

    def theta(
        self, values: Floats, *, season: int, horizon: int, levels: Sequence[float]
    ) -> tuple[Floats, list[tuple[Floats, Floats]]]:
        from statsmodels.tsa.forecasting.theta import ThetaModel

        method = "multiplicative" if float(values.min()) > 0 else "additive"
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                fit = ThetaModel(values, period=season, deseasonalize=season > 1, method=method).fit()
                mean = np.asarray(fit.forecast(horizon), dtype=np.float64)
                ahead = np.arange(horizon) * (1 + (float(fit.params.iloc[1]) - 1) ** 2)
                spread = np.sqrt((1 + ahead) * _innovation_variance(values))
        except (ValueError, np.linalg.LinAlgError, IndexError, ZeroDivisionError) as error:
            raise ValueError("Theta cannot be fitted") from error
        widths = [self.normal_interval(level) * spread for level in levels]
        bounds = [(mean - width, mean + width) for width in widths]
        if not all(np.isfinite(array).all() for array in (mean, *(side for pair in bounds for side in pair))):
            raise ValueError("Theta gave no numbers")
        return mean, bounds

    def normal_interval(self, level: float) -> float:
        return NormalDist().inv_cdf((1 + level) / 2)


def _innovation_variance(values: Floats) -> float:
    """Of the ARIMA(0, 1, 1) with drift behind Theta, by maximum likelihood: what `ThetaModelResults.prediction_intervals` takes from a
    state-space fit, to four digits and more, in a tenth of the time (0.03 s instead of 0.3 to 0.8)."""
    from statsmodels.tsa.arima.estimators.innovations import innovations_mle

    steps = np.diff(values)
    if np.allclose(steps, steps[0]):
        return 0.0
    parameters, _ = innovations_mle(steps, order=(0, 0, 1), demean=True)
    return float(parameters.sigma2)
