"""What moves rows, as an explanation sees it. Only an adapter can read the specs and statuses that it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from svc_storage.domain.control.leases import LeaseSight
from svc_storage.ports import Version


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A source or transform, by what its service wrote. `state`: as in WorkState, without its prefix; "" when no worker said any.

    `inputs`: full names of tables, as far as is known; `driving`: those whose new rows start it. `own_pace`: it works without being
    asked, under `lease`. `delay_us`: how long a transform may wait. `told_us`: of the newest status."""

    kind: Literal["source", "transform"]
    name: str
    output: str
    lease: str
    own_pace: bool
    paused: bool
    inputs: tuple[str, ...] = ()
    driving: tuple[str, ...] = ()
    state: str = ""
    cause: str = ""
    worker: str = ""
    activity: str = ""
    epoch: int = 0
    looked_at: bool = True
    delay_us: int = 0
    commit_us: int | None = None
    next_attempt_us: int | None = None
    told_us: int = 0


@dataclass(frozen=True, slots=True)
class ReaderSight:
    """A named reader of a table: it has read up to `version`, and moved last at `moved_us`."""

    name: str
    version: Version
    moved_us: int


class Pipelines(Protocol):
    """What moves rows, by the specs and statuses that storage keeps for the others."""

    async def works(self) -> Sequence[Work]:
        """All sources and transforms."""

    async def readers(self, table_uid: str) -> Sequence[ReaderSight]:
        """Live ones, those of transforms left out."""


class LeaseSights(Protocol):
    """Who holds what."""

    async def sight(self, name: str) -> LeaseSight:
        """Who has it, and whether they still renew it."""
