"""Who a commit that is due waits for a moment."""

from __future__ import annotations

from typing import Any, cast

from svc_storage.domain.writing.group import LONGEST_GATHER_S, Returning, Waiter


def streams(count: int) -> list[Waiter]:
    return [cast(Any, object()) for _ in range(count)]


def test_nobody_is_waited_for_at_first() -> None:
    assert Returning().wait_s(5.0) == 0.0


def test_half_of_a_commit_is_waited_at_most() -> None:
    returning = Returning()
    returning.expect(streams(2), 5.0, 0.008)
    assert round(returning.wait_s(5.001), 6) == 0.003
    assert returning.wait_s(5.004) == 0.0
    returning.expect(streams(2), 5.0, 60.0)
    assert round(returning.wait_s(5.0), 6) == LONGEST_GATHER_S


def test_the_last_one_ends_the_wait() -> None:
    returning, (first, second, stranger) = Returning(), streams(3)
    returning.expect([first, second], 5.0, 0.008)
    assert not returning.came(first)
    assert not returning.came(stranger)
    assert returning.came(second)
    assert returning.wait_s(5.0) == 0.0
    assert not returning.came(second)
