"""Acknowledged ⊆ present, each (writer, offset) once, position = offset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.chaos.stores.writers import SPAN


@dataclass(slots=True)
class Verdict:
    """`faults`: one sentence per thing that must not be; empty is good."""

    rows: int = 0
    lost: int = 0
    doubled: int = 0
    strangers: int = 0
    faults: list[str] = field(default_factory=list)


def judge(ids: Sequence[int], given: Mapping[int, int], standing: Mapping[int, tuple[int, int]]) -> Verdict:
    """`ids`: all rows of the table. `given`: writer → rows given, all acknowledged. `standing`: writer → (offset, position)."""
    verdict = Verdict(rows=len(ids))
    found = Counter(ids)
    for writer, count in given.items():
        wanted = range(writer * SPAN, writer * SPAN + count)
        lost = sum(one not in found for one in wanted)
        doubled = sum(found[one] - 1 for one in wanted if found[one] > 1)
        verdict.lost += lost
        verdict.doubled += doubled
        if lost or doubled:
            verdict.faults.append(f"writer {writer}: {lost} of {count} rows lost, {doubled} doubled")
        if standing[writer] != (count, count):
            verdict.faults.append(f"writer {writer} gave {count} rows; offset and position are {standing[writer]}")
    verdict.strangers = _strangers(found, given)
    if verdict.strangers:
        verdict.faults.append(f"{verdict.strangers} rows that nobody gave")
    return verdict


def _strangers(found: Iterable[int], given: Mapping[int, int]) -> int:
    return sum(not (one // SPAN in given and one % SPAN < given[one // SPAN]) for one in found)
