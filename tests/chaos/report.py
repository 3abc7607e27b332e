"""The generated part of docs/faults.md: what the episodes were and how they ended, from build/chaos.jsonl."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.chaos.plan import POINTS, THEMES

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "build" / "chaos.jsonl"
PAGE = ROOT / "docs" / "faults.md"
BEGIN, END = "<!-- episodes: written by `python -m tests.chaos` -->", "<!-- end of episodes -->"
Row = Mapping[str, Any]


def write(first: int, last: int) -> None:
    """Replaces the part between the marks by the newest result of each seed in [first, last]. Says so when seeds are missing."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    by_seed = {row["seed"]: row for row in map(json.loads, lines) if first <= row["seed"] <= last}
    if missing := [seed for seed in range(first, last + 1) if seed not in by_seed]:
        print(
            f"{PAGE.name} stays as it is: no result yet for {len(missing)} of {last - first + 1} seeds, the first is {missing[0]}"
        )
        return
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{section([by_seed[seed] for seed in sorted(by_seed)])}{END}{after}")
    print(f"wrote {PAGE.name}")


def section(rows: Sequence[Row]) -> str:
    """Tables by theme and by failpoint."""
    return "\n".join([*_by_theme(rows), "", *_totals(rows), "", *_by_point(rows), ""])


def _by_theme(rows: Sequence[Row]) -> Iterable[str]:
    yield "| faults | episodes | kills | with power loss | connections cut | rows | dead letters | derived rows | lost | doubled | failed |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for theme in (*THEMES, ""):
        some = [row for row in rows if theme in ("", row["theme"])]
        numbers = [
            len(some),
            sum(len(row["deaths"]) for row in some),
            sum(death["lost"] is not None for row in some for death in row["deaths"]),
            sum(row["cuts"] for row in some),
            *(_verdict(some, name) for name in ("rows", "dead_letters", "derived", "lost", "doubled")),
            sum(bool(row["failure"]) for row in some),
        ]
        yield f"| {theme or '**all**'} | {' | '.join(f'{number:,}' for number in numbers)} |"


def _totals(rows: Sequence[Row]) -> Iterable[str]:
    lost_files = sum(death["lost"] or 0 for row in rows for death in row["deaths"])
    refused = Counter(row["refused"] for row in rows if row["refused"])
    told = ", ".join(f"{count} × {reason}" for reason, count in sorted(refused.items())) or "none"
    yield f"- Seeds {rows[0]['seed']} to {rows[-1]['seed']}, {sum(row['seconds'] for row in rows) / 60:.0f} minutes in all."
    yield f"- Power losses took or damaged {lost_files:,} files that were not known to be on the disk."
    yield f"- Streams of the pushing program opened again: {sum(row['reopened'] for row in rows):,}."
    yield f"- Old writers that woke up beside their successor, all refused: {sum(row['ghosts'] for row in rows)}."
    yield f"- Old extract workers refused after SIGSTOP: {told}."
    yield (
        f"- Episodes whose log still showed a compaction at the end: {sum(row['verdict']['compactions'] > 0 for row in rows)}; "
        f"a checkpoint: {sum(row['verdict']['checkpoints'] > 0 for row in rows)}."
    )


def _by_point(rows: Sequence[Row]) -> Iterable[str]:
    kills = Counter(death["how"] for row in rows for death in row["deaths"])
    yield "| killed at | times |"
    yield "| --- | ---: |"
    for name in (*(point for points in POINTS.values() for point in points), "at random", "after SIGSTOP"):
        yield f"| {name} | {kills[name]} |"


def _verdict(rows: Sequence[Row], name: str) -> int:
    return sum(row["verdict"][name] for row in rows)
