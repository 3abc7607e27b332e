"""Theta's intervals, by a quicker way to the same likelihood."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.tsa.forecasting.theta import ThetaModel

from svc_analysis.adapters.statsmodels import Statsmodels

HOURS = np.arange(120)
DAY = 30 * np.sin(HOURS * 2 * np.pi / 24)
NOISE = np.random.default_rng(7)
SERIES = {
    "seasonal": 120 + DAY + NOISE.normal(0, 5, 120),
    "walk": 300 + np.cumsum(NOISE.normal(0, 3, 120)) + DAY,
    "counts": NOISE.poisson(np.maximum(0, 30 + DAY)).astype(float),
}


@pytest.mark.parametrize("name", SERIES)
@pytest.mark.filterwarnings("ignore")
def test_the_intervals_are_those_of_statsmodels(name: str) -> None:
    values = SERIES[name]
    mean, ((low, high), _) = Statsmodels().theta(values, season=24, horizon=12, levels=[0.8, 0.95])
    method = "multiplicative" if values.min() > 0 else "additive"
    fit = ThetaModel(values, period=24, method=method).fit()
    expected = fit.prediction_intervals(12, alpha=0.2)
    assert mean == pytest.approx(np.asarray(fit.forecast(12)))
    assert low == pytest.approx(expected["lower"].to_numpy(), rel=2e-3, abs=1e-2)
    assert high == pytest.approx(expected["upper"].to_numpy(), rel=2e-3, abs=1e-2)


def test_a_straight_line_has_no_spread() -> None:
    mean, ((low, high),) = Statsmodels().theta(np.arange(100.0), season=1, horizon=3, levels=[0.8])
    assert low == pytest.approx(mean)
    assert high == pytest.approx(mean)
