"""Flights for the page's tests: seeded, of the demo's columns, with its habits (nights without departures, late evenings, NULL delays)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa

ZONE = ZoneInfo("America/New_York")
AIRLINES = {
    "UA": "United Air Lines Inc.", "B6": "JetBlue Airways", "EV": "ExpressJet Airlines Inc.", "DL": "Delta Air Lines Inc.",
    "AA": "American Airlines Inc.", "MQ": "Envoy Air", "US": "US Airways Inc.", "9E": "Endeavor Air Inc.", "WN": "Southwest Airlines Co.",
    "VX": "Virgin America", "FL": "AirTran Airways Corporation", "F9": "Frontier Airlines Inc.",
}  # fmt: skip
WEIGHTS = np.array([58, 54, 54, 48, 32, 26, 20, 18, 12, 5, 3, 1], dtype=float)
HOURS = np.arange(5, 24)
HOUR_WEIGHTS = np.array([4, 26, 24, 26, 20, 16, 15, 17, 19, 20, 22, 22, 23, 21, 20, 16, 10, 3, 1], dtype=float)

SCHEMA = pa.schema(
    [
        ("sched_dep", pa.timestamp("us", "UTC")), ("origin", pa.string()), ("dest", pa.string()), ("carrier", pa.string()),
        ("airline", pa.string()), ("dep_delay", pa.float64()), ("distance", pa.float64()), ("hour", pa.int32()), ("status", pa.string()),
    ]
)  # fmt: skip
DEAD_SCHEMA = pa.schema(
    [("reason", pa.string()), ("field", pa.string()), ("raw", pa.string()), ("time", pa.timestamp("us", "UTC"))]
)


def departures(first: datetime, days: int, *, per_day: int = 920, seed: int = 7) -> pa.Table:
    """`days` local days from `first`'s day on, sorted by time."""
    rng = np.random.default_rng(seed)
    n = days * per_day
    day, hour = rng.integers(0, days, n), rng.choice(HOURS, n, p=HOUR_WEIGHTS / HOUR_WEIGHTS.sum())
    local = [datetime(first.year, first.month, first.day, tzinfo=ZONE) + timedelta(days=int(d)) for d in range(days)]
    times = [
        local[d].replace(hour=int(h), minute=int(m)).astimezone(UTC)
        for d, h, m in zip(day, hour, rng.integers(0, 60, n), strict=True)
    ]
    carrier = rng.choice(list(AIRLINES), n, p=WEIGHTS / WEIGHTS.sum())
    delay = np.round(rng.normal(-4, 6, n) + rng.exponential(np.maximum(2.0, (hour - 5) * 2.2)) * (rng.random(n) < 0.45))
    cancelled = rng.random(n) < 0.025
    status = np.where(cancelled, "cancelled", np.where(delay > 15, "late", "on_time"))
    columns = [
        times, rng.choice(["EWR", "JFK", "LGA"], n), rng.choice(["ATL", "BOS", "LAX", "MCO", "ORD", "SFO"], n), carrier,
        [AIRLINES[one] for one in carrier], [None if c else float(d) for c, d in zip(cancelled, delay, strict=True)],
        rng.choice([200.0, 760.0, 1010.0, 1400.0, 2450.0], n), hour.astype("int32"), status,
    ]  # fmt: skip
    return pa.table(
        [pa.array(one, field.type) for one, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA
    ).sort_by("sched_dep")


def dead_letters(seed: int = 7) -> pa.Table:
    rng = np.random.default_rng(seed)
    kinds = [
        ("RANGE", "dep_time", 120),
        ("UNPARSEABLE", "distance", 51),
        ("ENUM", "origin", 22),
        ("FIELD_COUNT", "", 7),
    ]
    rows = [(reason, field, f"line {i}") for reason, field, count in kinds for i in range(count)]
    rng.shuffle(rows)
    now = datetime(2026, 11, 1, tzinfo=UTC)
    return pa.table(
        [[r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows], [now] * len(rows)], schema=DEAD_SCHEMA
    )
