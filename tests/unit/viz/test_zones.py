"""Times in a zone, on both days on which New York's clocks change."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from svc_viz.domain.zones import bucket_text, from_ms, iso_text, ticks, to_ms, zone_label, zone_of

NEW_YORK = "America/New_York"


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type]


def test_the_repeated_hour_is_two_buckets_with_two_names() -> None:
    first, second = utc(2013, 11, 3, 5), utc(2013, 11, 3, 6)
    assert bucket_text(first, NEW_YORK, unit="h") == "Sun 03 Nov 01:00 EDT"
    assert bucket_text(second, NEW_YORK, unit="h") == "Sun 03 Nov 01:00 EST"
    assert bucket_text(utc(2013, 11, 3, 7), NEW_YORK, unit="h") == "Sun 03 Nov 02:00"
    assert iso_text(first, NEW_YORK) == "2013-11-03T01:00:00-04:00"
    assert iso_text(second, NEW_YORK) == "2013-11-03T01:00:00-05:00"


def test_ticks_stand_at_wall_clock_times_after_a_change() -> None:
    for day, hours in ((utc(2013, 3, 10, 5), 23), (utc(2013, 11, 3, 4), 25)):
        end = to_ms(day) + hours * 3_600_000
        found = {text: from_ms(at) for at, text in ticks(to_ms(day), end, NEW_YORK, most=5)}
        assert found["06:00"].astimezone(zone_of(NEW_YORK)).hour == 6
        assert found["18:00"].astimezone(zone_of(NEW_YORK)).hour == 18
        midnights = [at for at, text in ticks(to_ms(day), end, NEW_YORK, most=5) if text[0].isalpha()]
        assert midnights[-1] - midnights[0] == hours * 3_600_000


def test_the_hour_that_does_not_exist_has_no_tick() -> None:
    start = to_ms(utc(2013, 3, 10, 5))
    labels = [text for _, text in ticks(start, start + 6 * 3_600_000, NEW_YORK)]
    assert "01:00" in labels
    assert "02:00" not in labels
    assert "03:00" in labels


def test_ticks_are_few_at_every_width() -> None:
    start = to_ms(utc(2013, 7, 1))
    for hours in (0.02, 0.5, 3, 24, 72, 24 * 30, 24 * 365):
        assert 1 <= len(ticks(start, start + hours * 3_600_000, NEW_YORK)) <= 16


def test_names() -> None:
    assert zone_label(NEW_YORK) == "New York time"
    assert zone_label("UTC") == "UTC"
    with pytest.raises(ValueError, match="not an IANA"):
        zone_of("Mars/Olympus")
