"""What a Delta table may use and still be read rightly here. Anything else is refused by name: a reader that ignores it gives wrong rows
without a word."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from millrace.errors import BackendCapability

READABLE = frozenset({"timestampNtz", "v2Checkpoint", "vacuumProtocolCheck"})
"""Reader features that change nothing for who reads the log from its start, and files by Arrow."""


def check(actions: Iterable[Mapping[str, Any]]) -> None:
    """Raises BackendCapability naming the first feature that is not understood."""
    for action in actions:
        for name in _unreadable(action):
            raise BackendCapability(
                f"the table uses Delta's {name}, which is not read here",
                hint="write it anew without it, then import it",
            )


def _unreadable(action: Mapping[str, Any]) -> Iterator[str]:
    for name in action.get("protocol", {}).get("readerFeatures") or ():
        if name not in READABLE:
            yield str(name)
    meta = action.get("metaData", {})
    if (meta.get("configuration") or {}).get("delta.columnMapping.mode", "none") != "none":
        yield "columnMapping"
    if meta.get("partitionColumns"):
        yield "partitionColumns"
    if action.get("add", {}).get("deletionVector"):
        yield "deletionVectors"
