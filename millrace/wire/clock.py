"""Dates, times and spans as the wire writes them, from and to whole microseconds (days for dates) since 1970."""

from __future__ import annotations

import datetime as dt
import re

from google.protobuf import duration_pb2, timestamp_pb2

from millrace.arrow.types import MAX_DURATION_MICROS, MAX_MICROS, MICROS_PER_DAY, MIN_MICROS
from millrace.errors import FieldInvalid, ValueNotRepresentable

EPOCH = dt.datetime(1970, 1, 1)  # noqa: DTZ001 - the zone-less origin is meant: datetimes are never converted
_EPOCH_DAY = EPOCH.date().toordinal()
_TIME = re.compile(r"([01]\d|2[0-3]):([0-5]\d):([0-5]\d)(?:\.(\d{1,6}))?", re.ASCII)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


def date_text(days: int) -> str:
    return dt.date.fromordinal(days + _EPOCH_DAY).isoformat()


def date_days(text: str, where: str) -> int:
    """Days since 1970. Raises FieldInvalid unless `text` is "YYYY-MM-DD"."""
    try:
        if _DATE.fullmatch(text):
            return dt.date.fromisoformat(text).toordinal() - _EPOCH_DAY
    except ValueError:
        pass
    raise FieldInvalid("not a date", field=where, hint='write it as "2024-02-29"')


def time_text(micros: int) -> str:
    seconds, fraction = divmod(micros, 1_000_000)
    text = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return f"{text}.{fraction:06}" if fraction else text


def time_micros(text: str, where: str) -> int:
    """Microseconds since midnight. Raises FieldInvalid unless `text` is "HH:MM:SS" with up to 6 digits of a second."""
    found = _TIME.fullmatch(text)
    if found is None:
        raise FieldInvalid("not a time of day", field=where, hint='write it as "23:59:59.000001", up to 6 digits')
    hours, minutes, seconds = (int(part) for part in found.groups()[:3])
    return (hours * 3600 + minutes * 60 + seconds) * 1_000_000 + int((found[4] or "0").ljust(6, "0"))


def datetime_text(micros: int) -> str:
    days, rest = divmod(micros, MICROS_PER_DAY)
    return f"{date_text(days)}T{time_text(rest)}"


def datetime_micros(text: str, where: str) -> int:
    """Microseconds since 1970 by the wall clock. Raises FieldInvalid unless `text` is a date, "T" and a time."""
    date, separator, time = text.partition("T")
    if not separator:
        raise FieldInvalid("not a date and time", field=where, hint='write it as "2024-03-31T02:30:00", without a zone')
    return date_days(date, where) * MICROS_PER_DAY + time_micros(time, where)


def timestamp_proto(micros: int) -> timestamp_pb2.Timestamp:
    seconds, rest = divmod(micros, 1_000_000)
    return timestamp_pb2.Timestamp(seconds=seconds, nanos=rest * 1000)


def micros_of(value: timestamp_pb2.Timestamp, where: str) -> int:
    """Microseconds since 1970 UTC. Raises ValueNotRepresentable outside years 1 to 9999 or with a part of a microsecond."""
    _check_nanos(value.nanos, 0, where)
    micros = value.seconds * 1_000_000 + value.nanos // 1000
    if not MIN_MICROS <= micros <= MAX_MICROS:
        raise ValueNotRepresentable("an instant lies in the years 1 to 9999", field=where)
    return micros


def duration_proto(micros: int) -> duration_pb2.Duration:
    seconds, rest = divmod(abs(micros), 1_000_000)
    sign = -1 if micros < 0 else 1
    return duration_pb2.Duration(seconds=sign * seconds, nanos=sign * rest * 1000)


def duration_micros(value: duration_pb2.Duration, where: str) -> int:
    """Microseconds. Raises FieldInvalid when seconds and nanos differ in sign, ValueNotRepresentable beyond protobuf's range."""
    _check_nanos(abs(value.nanos), 0, where)
    if value.seconds * value.nanos < 0:
        raise FieldInvalid("seconds and nanos of a duration have the same sign", field=where)
    micros = value.seconds * 1_000_000 + value.nanos // 1000
    if abs(micros) > MAX_DURATION_MICROS:
        raise ValueNotRepresentable("a duration is under 10,000 years", field=where)
    return micros


def _check_nanos(nanos: int, least: int, where: str) -> None:
    if not least <= nanos < 1_000_000_000:
        raise FieldInvalid("nanos are 0 to 999,999,999", field=where)
    if nanos % 1000:
        raise ValueNotRepresentable("times are whole microseconds", field=where)
