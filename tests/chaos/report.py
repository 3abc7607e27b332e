"""docs/faults.md from the results of episodes."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "build" / "chaos.jsonl"


def write(first: int, last: int) -> None:
    """Later."""
