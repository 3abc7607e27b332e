"""The holder lets another replica's merge come first next time, once it had to refuse it.

A merge, a restore and a change of columns are decided on the whole of a version. The holder decides its own between two commits, where
nothing overtakes them; a replica that sends its decision would be overtaken for ever by a holder that commits all the time.
"""

from __future__ import annotations

from svc_storage.ports import Clock

FIRST_S, LONGEST_S = 1.0, 16.0


class Courtesy:
    """Says how long the holder's own groups wait. Each refusal in a row doubles it: the other one may need longer to decide anew."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until_s, self._next_s = 0.0, FIRST_S

    def refused(self) -> None:
        self._until_s = self._clock.monotonic_s() + self._next_s
        self._next_s = min(self._next_s * 2, LONGEST_S)

    def landed(self) -> None:
        """A commit of another replica is in the log: nobody is waited for any more."""
        self._until_s, self._next_s = 0.0, FIRST_S

    def left_s(self) -> float:
        return max(0.0, self._until_s - self._clock.monotonic_s())
