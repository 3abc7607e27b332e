from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from svc_storage.domain.upkeep import spare_checkpoints


def test_a_long_log_keeps_a_few() -> None:
    known = list(range(100, 14_500, 100))
    kept = sorted(set(known).difference(spare_checkpoints(known)))
    assert kept == [100, *range(1_000, 15_000, 1_000), 14_300, 14_400]


@given(st.sets(st.integers(0, 20_000)).map(sorted))
def test_the_ends_stay_and_a_second_look_finds_nothing(known: list[int]) -> None:
    spare = spare_checkpoints(known)
    assert not {*known[:1], *known[-2:]}.intersection(spare)
    left = [version for version in known if version not in spare]
    assert spare_checkpoints(left) == []
    assert {version // 1_000 for version in known} == {version // 1_000 for version in left}
