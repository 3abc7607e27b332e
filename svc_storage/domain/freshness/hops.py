"""Hops on the way of rows, and which of them holds them up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum, StrEnum


class Kind(StrEnum):
    SOURCE = "SOURCE"
    TABLE = "TABLE"
    TRANSFORM = "TRANSFORM"
    SUBSCRIBER = "SUBSCRIBER"


class State(IntEnum):
    """The higher, the worse."""

    OK = 1
    UNKNOWN = 2
    BEHIND = 3
    STALLED = 4


class Cause(StrEnum):
    """As HopCause says."""

    NONE = "UNSPECIFIED"
    SOURCE_PAUSED = "SOURCE_PAUSED"
    SOURCE_FAILING = "SOURCE_FAILING"
    LEASE_NOT_HELD = "LEASE_NOT_HELD"
    DEAD_LETTERS_RISING = "DEAD_LETTERS_RISING"
    COMMIT_CONFLICTS = "COMMIT_CONFLICTS"
    STORE_AWAY = "STORE_AWAY"
    TRANSFORM_PAUSED = "TRANSFORM_PAUSED"
    TRANSFORM_FAILING = "TRANSFORM_FAILING"
    TRANSFORM_BEHIND = "TRANSFORM_BEHIND"
    SUBSCRIBER_BEHIND = "SUBSCRIBER_BEHIND"
    NO_ANSWER = "NO_ANSWER"
    NOT_LOOKED_AT = "NOT_LOOKED_AT"


_OF_THE_STORE = (Cause.STORE_AWAY, Cause.COMMIT_CONFLICTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """One of them. `since_us` None: not known. `distance`: hops from it to the table that was asked for."""

    kind: Kind
    name: str
    state: State = State.OK
    cause: Cause = Cause.NONE
    summary: str = ""
    since_us: int | None = None
    evidence: Mapping[str, str] = field(default_factory=dict)
    next_step: str = ""
    replica: str = ""
    distance: int = 0


def verdict(hops: Iterable[Hop]) -> Hop | None:
    """The hop that holds data up: a store that is away is the cause of what else stands still; then what stands still comes before what is
    late, and of equals the one nearest to the source, which the others wait for."""
    guilty = [hop for hop in hops if hop.state >= State.BEHIND]
    return min(guilty, key=lambda hop: (hop.cause not in _OF_THE_STORE, -hop.state), default=None)


def short(name: str) -> str:
    """ "flights" of `namespaces/default/tables/flights`."""
    return name.split("/", 3)[-1]


def time_text(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / 1e6, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds(span_us: int) -> str:
    """ "3.2 s", "2 min", "5 h": about how long."""
    span_s = max(0, span_us) / 1e6
    if span_s < 120:
        return f"{span_s:.1f} s"
    return f"{span_s / 60:.0f} min" if span_s < 7_200 else f"{span_s / 3600:.0f} h"
