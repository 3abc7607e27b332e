"""Buckets and bins: the key a row falls under, the label people see, and the axis of all keys between two ends.

A key is whatever is cheap and exact: the number of a bucket of fixed length, a local calendar date, the number of a bin.
Labels are made once per group, after grouping.
"""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol
from zoneinfo import ZoneInfo

from sqlglot import exp

from svc_analysis.adapters.compile.terms import call, cast, column, double, number
from svc_analysis.ports import Bins, TimeBucket, Unit

MAX_KEYS = 1_000_000
TOO_MANY_BUCKETS = "millrace: too many buckets"

_SECOND = 1_000_000
_FIXED = {Unit.SECOND: _SECOND, Unit.MINUTE: 60 * _SECOND, Unit.HOUR: 3600 * _SECOND}
_DAY = 86_400 * _SECOND
_MONDAY = dt.datetime(2000, 1, 3, tzinfo=dt.UTC)
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class Axis(Protocol):
    """How one dimension is cut."""

    def key(self, value: exp.Expr) -> exp.Expr:
        """The key of a value of the column; NULL where it lies in no bucket."""

    def label(self, key: exp.Expr) -> exp.Expr:
        """What people see."""

    def keys(self, low: exp.Expr, high: exp.Expr) -> exp.Expr:
        """A list of all keys from `low` to `high`, both included; NULL when one of them is. Raises in the engine beyond MAX_KEYS."""

    def ends(self) -> tuple[exp.Expr | None, exp.Expr | None]:
        """Keys where the axis begins and ends whatever the data say; None: where the data do."""


def _us(day: dt.datetime) -> int:
    return (day - _EPOCH) // dt.timedelta(microseconds=1)


def floor_div(value: exp.Expr, width: int) -> exp.Expr:
    """`value` // `width` rounded down also below zero (DuckDB's `//` rounds towards it)."""
    below = exp.LT(this=exp.Paren(this=exp.Mod(this=value.copy(), expression=number(width))), expression=number(0))
    quotient = exp.IntDiv(this=exp.Paren(this=value.copy()), expression=number(width))
    return exp.Paren(this=exp.Sub(this=exp.Paren(this=quotient), expression=cast(exp.Paren(this=below), "BIGINT")))


def _guarded(count: exp.Expr, keys: exp.Expr) -> exp.Expr:
    too_many = exp.GT(this=exp.Paren(this=count), expression=number(MAX_KEYS))
    return exp.Case(ifs=[exp.If(this=too_many, true=call("error", exp.Literal.string(TOO_MANY_BUCKETS)))], default=keys)


def _number_range(low: exp.Expr, high: exp.Expr) -> exp.Expr:
    keys = call("range", low.copy(), exp.Add(this=high.copy(), expression=number(1)))
    return _guarded(exp.Sub(this=high.copy(), expression=low.copy()), keys)


@dataclass(frozen=True, slots=True)
class FixedLength:
    """Buckets of `width` microseconds since `origin`: seconds, minutes, hours, and whole days of UTC. The key is the bucket's number."""

    width: int
    origin: int = 0

    def key(self, value: exp.Expr) -> exp.Expr:
        micros = call("epoch_us", value)
        since = exp.Paren(this=exp.Sub(this=micros, expression=number(self.origin))) if self.origin else micros
        return floor_div(since, self.width)

    def label(self, key: exp.Expr) -> exp.Expr:
        micros: exp.Expr = exp.Mul(this=key, expression=number(self.width))
        if self.origin:
            micros = exp.Add(this=exp.Paren(this=micros), expression=number(self.origin))
        return call("make_timestamptz", micros)

    def keys(self, low: exp.Expr, high: exp.Expr) -> exp.Expr:
        return _number_range(low, high)

    def ends(self) -> tuple[None, None]:
        return None, None


def at_zone(zone: str, value: exp.Expr) -> exp.Expr:
    """An instant as wall-clock time of `zone`, or the other way round."""
    return call("timezone", exp.Literal.string(zone), value)


def first_instant(zone: str, wall: exp.Expr) -> exp.Expr:
    """The first instant at which clocks of `zone` showed `wall`: where the hour at midnight is repeated, a day begins with the
    first of the two."""
    later = at_zone(zone, wall.copy())
    earlier = exp.Paren(this=exp.Sub(this=later.copy(), expression=call("to_hours", 1)))
    repeated = exp.EQ(this=at_zone(zone, earlier.copy()), expression=wall.copy())
    return exp.Case(ifs=[exp.If(this=repeated, true=earlier)], default=later)


@dataclass(frozen=True, slots=True)
class Calendar:
    """Days, weeks (from Monday), months, years of a zone. The key is the local date and time at which the bucket begins."""

    zone: str
    days: int = 0
    months: int = 0

    def key(self, value: exp.Expr) -> exp.Expr:
        return call("time_bucket", self._step(), at_zone(self.zone, value), self._origin())

    def label(self, key: exp.Expr) -> exp.Expr:
        return first_instant(self.zone, key)

    def keys(self, low: exp.Expr, high: exp.Expr) -> exp.Expr:
        days = exp.Sub(this=cast(high.copy(), "DATE"), expression=cast(low.copy(), "DATE"))
        count = exp.IntDiv(this=exp.Paren(this=days), expression=number(self.days or 28 * self.months))
        return _guarded(count, call("generate_series", low.copy(), high.copy(), self._step()))

    def ends(self) -> tuple[None, None]:
        return None, None

    def _step(self) -> exp.Expr:
        return call("to_months", self.months) if self.months else call("to_days", self.days)

    def _origin(self) -> exp.Expr:
        return cast(exp.Literal.string("2000-01-01" if self.months else "2000-01-03"), "TIMESTAMP")


@dataclass(frozen=True, slots=True)
class HoursOfDay:
    """Several hours of elapsed time, counted from each local midnight; the day's last bucket takes what a clock change leaves. The key is
    the bucket's start in microseconds since 1970."""

    zone: str
    hours: int

    def key(self, value: exp.Expr) -> exp.Expr:
        start = call("epoch_us", self._midnight(value.copy()))
        since = exp.Paren(this=exp.Sub(this=call("epoch_us", value.copy()), expression=start.copy()))
        into = exp.Mul(this=floor_div(since, self._width), expression=number(self._width))
        return exp.Paren(this=exp.Add(this=start, expression=into))

    def label(self, key: exp.Expr) -> exp.Expr:
        return call("make_timestamptz", key)

    def keys(self, low: exp.Expr, high: exp.Expr) -> exp.Expr:
        """Day by day: from each midnight in steps of `hours` up to the next midnight."""
        day = exp.column("d")
        days = call(
            "generate_series",
            self._local_day(low),
            exp.Add(this=self._local_day(high), expression=call("to_hours", 1)),
            call("to_days", 1),
        )
        next_day = exp.Add(this=day.copy(), expression=call("to_days", 1))
        steps = call(
            "range",
            call("epoch_us", first_instant(self.zone, day.copy())),
            call("epoch_us", first_instant(self.zone, exp.Paren(this=next_day))),
            self._width,
        )
        per_day = call("list_transform", days, exp.Lambda(this=steps, expressions=[exp.to_identifier("d")]))
        between = exp.Between(this=exp.column("k"), low=low.copy(), high=high.copy())
        kept = call(
            "list_filter", call("flatten", per_day), exp.Lambda(this=between, expressions=[exp.to_identifier("k")])
        )
        span = exp.Paren(this=exp.Sub(this=high.copy(), expression=low.copy()))
        return _guarded(exp.IntDiv(this=span, expression=number(self._width)), kept)

    def ends(self) -> tuple[None, None]:
        return None, None

    @property
    def _width(self) -> int:
        return self.hours * 3600 * _SECOND

    def _midnight(self, value: exp.Expr) -> exp.Expr:
        return first_instant(self.zone, call("date_trunc", exp.Literal.string("day"), at_zone(self.zone, value)))

    def _local_day(self, key: exp.Expr) -> exp.Expr:
        return call("date_trunc", exp.Literal.string("day"), at_zone(self.zone, call("make_timestamptz", key.copy())))


def time_axis(bucket: TimeBucket) -> Axis:
    """The axis of a resolved bucket (column, zone and count are set)."""
    if bucket.unit is Unit.HOUR and bucket.zone != "UTC":
        return _hours(bucket)
    if (width := _FIXED.get(bucket.unit)) is not None:
        return FixedLength(width * bucket.count)
    if bucket.unit in (Unit.DAY, Unit.WEEK):
        days = bucket.count * (7 if bucket.unit is Unit.WEEK else 1)
        return FixedLength(days * _DAY, _us(_MONDAY)) if bucket.zone == "UTC" else Calendar(bucket.zone, days=days)
    return Calendar(bucket.zone, months=bucket.count * (12 if bucket.unit is Unit.YEAR else 1))


def _hours(bucket: TimeBucket) -> Axis:
    if whole_hours(bucket.zone) and bucket.count == 1:
        return FixedLength(_FIXED[Unit.HOUR])
    if 24 % bucket.count == 0:
        return HoursOfDay(bucket.zone, bucket.count)
    midnight = dt.datetime(2000, 1, 1, tzinfo=ZoneInfo(bucket.zone))
    return FixedLength(_FIXED[Unit.HOUR] * bucket.count, _us(midnight))


def whole_hours(zone: str) -> bool:
    """True when the zone's clocks differ from UTC by whole hours, from 1970 to 2037."""
    info = ZoneInfo(zone)
    months = (dt.datetime(year, month, 15, tzinfo=info) for year in range(1970, 2038) for month in range(1, 13))
    return all((offset := moment.utcoffset()) is not None and offset.total_seconds() % 3600 == 0 for moment in months)


@dataclass(frozen=True, slots=True)
class BinAxis:
    """Bins of one width. The key is the bin's number from the anchor: the lower clamp, else the upper one, else 0."""

    bins: Bins
    whole: bool
    """True for integer columns with whole width and anchor: no rounding can go wrong."""

    def key(self, value: exp.Expr) -> exp.Expr:
        """NaN, NULL and an infinity without a clamp lie in no bin."""
        number_ = cast(value, "DOUBLE")
        ifs = [exp.If(this=call("isnan", number_.copy()), true=exp.Null())]  # DuckDB sorts it above all numbers
        if self.bins.clamp_high is not None:
            above = exp.GTE(this=number_.copy(), expression=double(self.bins.clamp_high))
            ifs.append(exp.If(this=above, true=number(self._last)))
        if self.bins.clamp_low is not None:
            below = exp.LT(this=number_.copy(), expression=double(self.bins.clamp_low))
            ifs.append(exp.If(this=below, true=number(0)))
        inside = call("isfinite", number_.copy())
        ifs.append(exp.If(this=inside, true=self._corrected(number_, self._floor(number_))))
        return exp.Case(ifs=ifs)

    def label(self, key: exp.Expr) -> exp.Expr:
        edge = exp.Add(
            this=exp.Paren(this=exp.Mul(this=cast(key, "DOUBLE"), expression=double(self.bins.width))),
            expression=double(self._anchor),
        )
        rounded = call("round", edge, self._digits)
        if self.bins.clamp_high is None:
            return rounded
        return call("least", rounded, double(self.bins.clamp_high))

    def keys(self, low: exp.Expr, high: exp.Expr) -> exp.Expr:
        return _number_range(low, high)

    def ends(self) -> tuple[exp.Expr | None, exp.Expr | None]:
        low = number(0) if self.bins.clamp_low is not None else None
        high = number(self._last) if self.bins.clamp_high is not None else None
        return low, high

    @property
    def _anchor(self) -> float:
        if self.bins.clamp_low is not None:
            return self.bins.clamp_low
        return self.bins.clamp_high or 0.0

    @property
    def _digits(self) -> int:
        """Decimals that labels need: those of width and anchor as people wrote them."""
        return max(_decimals(self.bins.width), _decimals(self._anchor))

    @property
    def _last(self) -> int:
        high = self.bins.clamp_high or 0.0
        return math.ceil(round((Decimal(repr(high)) - Decimal(repr(self._anchor))) / Decimal(repr(self.bins.width)), 9))

    def _floor(self, value: exp.Expr) -> exp.Expr:
        offset = exp.Paren(this=exp.Sub(this=value.copy(), expression=double(self._anchor)))
        quotient = exp.Paren(this=exp.Div(this=offset, expression=double(self.bins.width)))
        return exp.TryCast(this=call("floor", quotient), to=exp.DataType.build("BIGINT"))

    def _corrected(self, value: exp.Expr, key: exp.Expr) -> exp.Expr:
        """A value that equals an edge belongs to the bin that begins there, also where the division rounds (0.3 / 0.1 < 3)."""
        if self.whole:
            return key
        following = exp.Paren(this=exp.Add(this=key.copy(), expression=number(1)))
        ifs = [
            exp.If(this=exp.LTE(this=self._edge(following), expression=value.copy()), true=following.copy()),
            exp.If(
                this=exp.GT(this=self._edge(key), expression=value.copy()),
                true=exp.Sub(this=key.copy(), expression=number(1)),
            ),
        ]
        return exp.Case(ifs=ifs, default=key)

    def _edge(self, key: exp.Expr) -> exp.Expr:
        scaled = exp.Mul(this=cast(key.copy(), "DOUBLE"), expression=double(self.bins.width))
        return call("round", exp.Add(this=exp.Paren(this=scaled), expression=double(self._anchor)), self._digits)


def _decimals(value: float) -> int:
    exponent = Decimal(repr(value)).normalize().as_tuple().exponent
    return min(15, max(0, -exponent)) if isinstance(exponent, int) else 0


def key_name(index: int) -> str:
    return f"k{index}"


def key_column(index: int, table: str = "") -> exp.Expr:
    return column(key_name(index), table)
