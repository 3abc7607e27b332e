"""Times for people: instants in a named zone, right on both days on which clocks change. Axes keep true UTC; only labels are local."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

MS = timedelta(milliseconds=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_STEPS_H = (1, 2, 3, 6, 12)


@lru_cache(maxsize=64)
def zone_of(name: str) -> ZoneInfo:
    """Raises ValueError for a name that the IANA database lacks."""
    try:
        return ZoneInfo(name or "UTC")
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"`{name}` is not an IANA time zone; for instance America/New_York or UTC") from error


def zone_label(name: str) -> str:
    """ "New York time" for America/New_York, "UTC" for UTC."""
    if name in {"UTC", "Etc/UTC", ""}:
        return "UTC"
    return f"{name.rsplit('/', 1)[-1].replace('_', ' ')} time"


def to_ms(moment: datetime) -> float:
    """Milliseconds since 1970 UTC."""
    return (moment - EPOCH) / MS


def from_ms(ms: float) -> datetime:
    return EPOCH + timedelta(milliseconds=ms)


def clock_text(moment: datetime, zone: str) -> str:
    """`Fri, Aug 9, 2013, 15:45`: what is replayed is not of this year."""
    local = moment.astimezone(zone_of(zone))
    return f"{local:%a, %b} {local.day}, {local:%Y, %H:%M}"


def day_text(moment: datetime, zone: str) -> str:
    """`2013-08-09 15:45`: where years may differ."""
    return f"{moment.astimezone(zone_of(zone)):%Y-%m-%d %H:%M}"


def bucket_text(moment: datetime, zone: str, *, unit: str) -> str:
    """A bucket's start: `Wed 07 Aug 19:00`, or without the time for days. In a repeated hour the zone's abbreviation follows."""
    local = moment.astimezone(zone_of(zone))
    if unit == "d":
        return f"{local:%a %d %b %Y}"
    text = f"{local:%a %d %b %H:%M}" if unit in {"h", "m"} else f"{local:%a %d %b %H:%M:%S}"
    return f"{text} {local:%Z}" if is_repeated(local) else text


def is_repeated(local: datetime) -> bool:
    """True when the wall clock shows this time twice."""
    return local.replace(fold=0).utcoffset() != local.replace(fold=1).utcoffset() and _exists(local)


def _exists(local: datetime) -> bool:
    return local.astimezone(UTC).astimezone(local.tzinfo).replace(tzinfo=None) == local.replace(tzinfo=None)


def iso_text(moment: datetime, zone: str) -> str:
    """ISO 8601 with the zone's offset at that instant: `2013-11-03T01:00:00-05:00`."""
    return moment.astimezone(zone_of(zone)).isoformat(timespec="seconds" if moment.microsecond == 0 else "microseconds")


def ticks(start_ms: float, end_ms: float, zone: str, *, most: int = 14) -> tuple[tuple[float, str], ...]:
    """Places and labels of an axis from `start_ms` to `end_ms`: local midnights with the day's name, hours between where there is room.

    At most about `most` ticks. Ticks stand at local wall-clock times, so that after a clock change 06:00 is still 06:00.
    """
    if not end_ms > start_ms:
        return ()
    span_h = (end_ms - start_ms) / 3_600_000
    if span_h <= 3:
        return _minute_ticks(start_ms, end_ms, zone, span_h, most)
    step = next((step for step in _STEPS_H if span_h / step <= most), 24)
    if step < 24:
        return _hour_ticks(start_ms, end_ms, zone, step)
    return _day_ticks(start_ms, end_ms, zone, max(1, -int(-span_h // (24 * most))))


def _minute_ticks(start_ms: float, end_ms: float, zone: str, span_h: float, most: int) -> tuple[tuple[float, str], ...]:
    step_s = next(s for s in (1, 5, 10, 30, 60, 300, 600, 900, 1800) if span_h * 3600 / s <= most or s == 1800)
    first = -int(-start_ms // (step_s * 1000)) * step_s * 1000
    form = "%H:%M" if step_s >= 60 else "%H:%M:%S"
    place = zone_of(zone)
    count = int((end_ms - first) // (step_s * 1000)) + 1
    return tuple(
        (at, from_ms(at).astimezone(place).strftime(form))
        for at in (first + i * step_s * 1000 for i in range(max(0, count)))
    )


def _hour_ticks(start_ms: float, end_ms: float, zone: str, step: int) -> tuple[tuple[float, str], ...]:
    place = zone_of(zone)
    found: dict[float, str] = {}
    day = from_ms(start_ms).astimezone(place).replace(hour=0, minute=0, second=0, microsecond=0)
    while to_ms(day) <= end_ms:
        for hour in range(0, 24, step):
            local = day.replace(hour=hour)
            if not _exists(local):
                continue
            at = to_ms(local.astimezone(UTC))
            if start_ms <= at <= end_ms:
                found[at] = f"{local:%a %d}" if hour == 0 else f"{local:%H:%M}"
        day = (day + timedelta(days=1)).replace(hour=0)
    return tuple(sorted(found.items()))


def _day_ticks(start_ms: float, end_ms: float, zone: str, step: int) -> tuple[tuple[float, str], ...]:
    place = zone_of(zone)
    found = []
    day = from_ms(start_ms).astimezone(place).replace(hour=0, minute=0, second=0, microsecond=0)
    number = 0
    while (at := to_ms(day.astimezone(UTC))) <= end_ms:
        if at >= start_ms:
            if number % step == 0:
                found.append((at, f"{day:%d %b}"))
            number += 1
        day = (day + timedelta(days=1)).replace(hour=0)
    return tuple(found)
