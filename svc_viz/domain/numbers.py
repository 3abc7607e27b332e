"""Numbers for people: a field's format and unit, signs that cannot be missed, states by threshold."""

from __future__ import annotations

import math
from datetime import date, datetime

from svc_viz.domain.zones import bucket_text
from svc_viz.ports import FieldSpec

NOTHING = "–"
MINUS = "−"


def number_text(value: object, form: str = "") -> str:
    """`1,234`, `47.4`, `0.1 %`: grouped by thousands unless the format is `0` or `0.0…` without comma and the number is below 10,000.

    `form`: "0", "0.0", "0,0", "0,0.0", "0%", "0.0%" (times 100). NULL, NaN and infinities are an en dash.
    """
    if value is None or isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return NOTHING if value is None or isinstance(value, int | float) else str(value)
    percent = form.endswith("%")
    shown = value * 100 if percent else value
    digits = _digits(form.rstrip("%"), shown)
    text = f"{shown:,.{digits}f}"
    if text.strip("-0.,") == "":
        text = text.lstrip("-")
    return text.replace("-", MINUS)


def _digits(form: str, value: float) -> int:
    if not form:
        return 0 if float(value).is_integer() or abs(value) >= 1000 else 1
    return len(form.partition(".")[2])


def unit_of(spec: FieldSpec) -> str:
    """The unit that stands behind the number: `%` for percent formats, else the field's own."""
    return "%" if spec.format.endswith("%") else spec.unit


def signed_text(delta: float, spec: FieldSpec) -> str:
    """`+93`, `−23.7 pt`: a difference in the field's format; percentages differ by points."""
    text = number_text(abs(delta), spec.format)
    zero = not any(digit in text for digit in "123456789")
    sign = "±" if zero else "+" if delta > 0 else MINUS
    return f"{sign}{text} pt" if spec.format.endswith("%") else f"{sign}{text}"


def cell_text(value: object, spec: FieldSpec, zone: str, unit: str = "h") -> str:
    """One table cell: labels for known values, times in the zone, numbers in the field's format with `%` where it is meant."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NOTHING
    if isinstance(value, datetime):
        return bucket_text(value, zone, unit=unit) if value.tzinfo else f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, str):
        return spec.labels.get(value, value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        if (label := spec.labels.get(number_text(value, "0"))) is not None:
            return label
        text = number_text(value, spec.format)
        return f"{text} %" if spec.format.endswith("%") and text != NOTHING else text
    return str(value)


def state_of(value: object, spec: FieldSpec) -> str:
    """The semantic state at the highest threshold that the value reaches; empty below all."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return ""
    reached = [threshold for threshold in spec.thresholds if value >= threshold.at]
    return max(reached, key=lambda threshold: threshold.at).state if reached else ""


def nice_ceiling(value: float) -> float:
    """The next 1, 1.5, 2, 2.5, 3, 4, 5, 6, 8 or 10 times a power of ten at or above `value`; 1 for nothing."""
    if not math.isfinite(value) or value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if step * power >= value * 0.999999)
