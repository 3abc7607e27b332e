"""What keeps a table's commits from landing, for whoever asks why nothing new comes."""

from __future__ import annotations

from dataclasses import dataclass

from millrace import errors
from svc_storage.ports import Clock

_OF_THE_STORE = (errors.RetryLater, errors.OutcomeUnknown, errors.Broken)
_OF_PEOPLE = (errors.LeaseHeld, errors.StreamDraining)


@dataclass(frozen=True, slots=True)
class Trouble:
    """`count` failures since the last commit that landed; `reason` and `message` are the newest one's. `since_s`, `last_s`: monotonic."""

    reason: str
    message: str
    count: int
    since_s: float
    last_s: float


class Troubles:
    """Of one table, on this replica. `trying_since_s`: a commit is under way since then (monotonic); None: none is."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.now: Trouble | None = None
        self.trying_since_s: float | None = None

    def began(self) -> None:
        self.trying_since_s = self._clock.monotonic_s()

    def ended(self) -> None:
        self.trying_since_s = None

    def landed(self) -> None:
        self.now = None

    def note(self, error: BaseException) -> None:
        """What a writer did wrong is no trouble of the table's."""
        if not isinstance(error, _OF_THE_STORE) or isinstance(error, _OF_PEOPLE):
            return
        now_s = self._clock.monotonic_s()
        count, since_s = (self.now.count + 1, self.now.since_s) if self.now else (1, now_s)
        self.now = Trouble(error.reason, error.message, count, since_s, now_s)
