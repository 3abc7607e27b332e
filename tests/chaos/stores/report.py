"""The stores' part of docs/faults.md, from build/stores-*.jsonl."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.chaos.report import PAGE, ROOT
from tests.chaos.stores.plan import EPISODES, THEMES

BEGIN, END = "<!-- stores: written by `python -m tests.chaos.stores` -->", "<!-- end of stores -->"
Row = Mapping[str, Any]


def results_of(backend: str) -> Path:
    return ROOT / "build" / f"stores-{backend}.jsonl"


def newest(backend: str) -> dict[int, Row]:
    """The newest result of each seed."""
    path = results_of(backend)
    lines = path.read_text().splitlines() if path.exists() else []
    return {row["seed"]: row for row in map(json.loads, lines)}


def passed(backend: str) -> set[int]:
    return {seed for seed, row in newest(backend).items() if not row["failure"]}


def write() -> None:
    """Replaces the part between the marks; a backend without results keeps its line out."""
    rows = [row for backend in THEMES for row in _backend(backend, newest(backend))]
    head = [
        "| store | faults | episodes | kills | store's faults | rows | reopened | lost | doubled | failed |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n" + "\n".join([*head, *rows]) + f"\n{END}{after}")
    print(f"wrote {PAGE.name}")


def _backend(backend: str, rows: Mapping[int, Row]) -> Iterable[str]:
    known = [rows[seed] for seed in sorted(rows) if seed < EPISODES[backend]]
    if not known:
        return
    for theme in THEMES[backend]:
        yield _line("", theme, [row for row in known if row["theme"] == theme])
    yield _line(f"**{backend}**", f"all, {len(known)} of {EPISODES[backend]}", known)


def _line(backend: str, theme: str, some: Sequence[Row]) -> str:
    numbers = [
        len(some),
        *(sum(row[name] for row in some) for name in ("kills", "troubles", "rows", "reopened", "lost", "doubled")),
        sum(bool(row["failure"]) for row in some),
    ]
    return f"| {backend} | {theme} | {' | '.join(f'{number:,}' for number in numbers)} |"
