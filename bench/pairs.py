"""Ours and the peer, in turn, in one run: on a shared machine only the ratio of neighbours means something."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")


@dataclass(frozen=True, slots=True)
class Pair:
    """Seconds of each round, ours and the peer's, in the order they ran."""

    ours_s: tuple[float, ...]
    peer_s: tuple[float, ...]

    @property
    def ratios(self) -> tuple[float, ...]:
        """Ours over the peer's, round by round: 2.0 is twice as slow."""
        return tuple(ours / peer for ours, peer in zip(self.ours_s, self.peer_s, strict=True))


def interleave(ours: Callable[[], object], peer: Callable[[], object], *, rounds: int, warm_up: int = 1) -> Pair:
    """Runs ours, peer, ours, peer, …; the order within a round alternates, so that neither always runs on warm caches."""
    for _ in range(warm_up):
        ours(), peer()
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        for which in (0, 1) if number % 2 == 0 else (1, 0):
            began = time.perf_counter()
            (ours, peer)[which]()
            times[which].append(time.perf_counter() - began)
        print(f"  round {number + 1}/{rounds}: {times[0][-1]:.3f} s against {times[1][-1]:.3f} s", file=sys.stderr)
    return Pair(tuple(times[0]), tuple(times[1]))


def spread(values: Sequence[float], digits: int = 2) -> str:
    """ "median (min to max)"."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def machine(packages: Sequence[str]) -> str:
    """What the figures were measured on, in one line."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    libraries = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"{datetime.now(UTC):%Y-%m-%d}, {cores} cores, Python {platform.python_version()}, {libraries}"


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows with the same keys as a Markdown table."""
    head = list(rows[0])
    lines = [" | ".join(head), " | ".join("---" for _ in head), *(" | ".join(row[key] for key in head) for row in rows)]
    return "\n".join(f"| {line} |" for line in lines)


def write_section(title: str, body: str) -> None:
    """Replaces (or appends) the section `title` of RESULTS.md; the other sections stay as they are."""
    before = RESULTS.read_text() if RESULTS.exists() else "# Measured\n"
    head, *sections = before.split("\n## ")
    kept = [section for section in sections if section.split("\n", 1)[0] != title]
    sections = sorted([*kept, f"{title}\n\n{body.strip()}\n"])
    RESULTS.write_text("\n## ".join([head.rstrip() + "\n", *sections]))
