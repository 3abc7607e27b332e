"""One series on an even grid: its step, its season, its gaps. Calendar steps (days with a clock change, months) count as even."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from svc_analysis.domain.envelope import Caution, Floats

Micros = npt.NDArray[np.int64]

HOUR = 3_600_000_000
DAY = 24 * HOUR
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class Unusable(Exception):
    """Why a series has no forecast. `code`: TOO_SHORT, NOT_EVEN, DUPLICATE_TIME, NO_VALUES."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, slots=True)
class Step:
    """`micros` for fixed steps, `months` for calendar ones (the other is 0). `season`: how many make the usual season."""

    micros: int = 0
    months: int = 0
    season: int = 1

    def after(self, last_us: int, count: int) -> Micros:
        """The next `count` times after `last_us`."""
        if self.micros:
            steps: Micros = self.micros * np.arange(1, count + 1, dtype=np.int64) + last_us
            return steps
        return np.array([_add_months(last_us, self.months * k) for k in range(1, count + 1)], dtype=np.int64)

    def index(self, times: Micros) -> Micros:
        """Which step each time is, from the first. Raises Unusable when one lies between two."""
        if self.months:
            months = np.array([_month(int(us)) for us in times], dtype=np.int64)
            places, rest = np.divmod(months - months[0], self.months)
            slack = np.zeros(len(times), dtype=np.int64)
        else:
            calendar = self.micros % DAY == 0
            places = np.rint((times - times[0]) / self.micros).astype(np.int64)
            rest = np.abs(times - times[0] - places * self.micros)
            slack = np.full(len(times), HOUR if calendar else 0, dtype=np.int64)
        if (rest > slack).any():
            raise Unusable("NOT_EVEN")
        return np.asarray(places, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Series:
    """`values` on the whole grid, gaps filled; `last_us`: the last time."""

    values: Floats
    last_us: int
    step: Step
    n_used: int
    n_dropped: dict[str, int]
    cautions: tuple[Caution, ...]


def even_series(times: Micros, values: Floats, nulls: npt.NDArray[np.bool_]) -> Series:
    """`times` ascending. Values that are no finite numbers are gaps, as are missing times; both are filled in a straight line.

    Raises Unusable."""
    dropped = _dropped(values, nulls)
    usable = np.isfinite(values)
    if not usable.any():
        raise Unusable("NO_VALUES")
    if (np.diff(times) == 0).any():
        raise Unusable("DUPLICATE_TIME")
    times, values = times[usable], values[usable]
    if len(values) < 3:
        raise Unusable("TOO_SHORT")
    step = step_of(times)
    places = step.index(times)
    if (np.diff(places) == 0).any():
        raise Unusable("NOT_EVEN")
    missing = int(places[-1]) + 1 - len(places)
    if missing > 9 * len(places):
        raise Unusable("NOT_EVEN")
    cautions: tuple[Caution, ...] = ()
    if missing:
        share = missing / (int(places[-1]) + 1)
        text = f"{missing} steps without a value were filled in a straight line"
        cautions = (Caution("GAPS", text, {"missing": float(missing), "share": share}),)
        values = np.interp(np.arange(places[-1] + 1), places, values)
    return Series(values, int(times[-1]), step, len(places), dropped, cautions)


def _dropped(values: Floats, nulls: npt.NDArray[np.bool_]) -> dict[str, int]:
    nans = np.isnan(values) & ~nulls
    counts = {"NULL": int(nulls.sum()), "NAN": int(nans.sum()), "INFINITE": int(np.isinf(values).sum())}
    return {reason: count for reason, count in counts.items() if count}


def step_of(times: Micros) -> Step:
    """The step of ascending times: months, weeks and days by the calendar, else the smallest difference."""
    differences = np.diff(times)
    smallest = int(differences.min())
    if smallest >= 27 * DAY and (months := _months(times)):
        return Step(months=months, season=12 if months == 1 else 4 if months == 3 else 1)
    for days, season in ((7, 1), (1, 7)):
        length = days * DAY
        if abs(smallest - length) <= HOUR:
            return Step(micros=length, season=season)
    return Step(micros=smallest, season=24 if smallest == HOUR else 1)


def _months(times: Micros) -> int:
    """Months between the times when all fall on one day of the month (or its last hours, seen from another zone); else 0."""
    moments = [_EPOCH + dt.timedelta(microseconds=int(us)) + dt.timedelta(hours=12) for us in times]
    days = {moment.day for moment in moments}
    if len(days) > 2 or max(days) - min(days) > 1:
        return 0
    numbers = np.array([_month(int(us)) for us in times])
    steps = np.diff(numbers)
    return int(steps.min()) if (steps > 0).all() else 0


def _month(us: int) -> int:
    """A running number of the month; half a day of slack keeps local midnights of any zone in their own month."""
    moment = _EPOCH + dt.timedelta(microseconds=us) + dt.timedelta(hours=12)
    return moment.year * 12 + moment.month - 1


def _add_months(us: int, months: int) -> int:
    moment = _EPOCH + dt.timedelta(microseconds=us)
    number = moment.year * 12 + moment.month - 1 + months
    year, month = divmod(number, 12)
    first = dt.datetime(year, month + 1, 1, tzinfo=dt.UTC)
    following = dt.datetime(year + (month == 11), (month + 1) % 12 + 1, 1, tzinfo=dt.UTC)
    day = min(moment.day, (following - first).days)
    return (moment.replace(year=year, month=month + 1, day=day) - _EPOCH) // dt.timedelta(microseconds=1)
