"""Named places at which a test makes a process die, wait or fail. Costs one comparison when nothing is set.

`MILLRACE_FAILPOINTS` is read once, at the first failpoint a process meets: `storage.before_ack=kill:3,storage.after_commit=delay:200ms`.
Actions: `kill` (SIGKILL to this process), `stop` (SIGSTOP), `delay:<n>ms`, `error` (raises InjectedFault). A number after the action
(`kill:3`, `error:2`, `delay:200ms:5`) is the hit on which it acts, once; without one it acts on every hit. Never set it outside tests.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

VARIABLE = "MILLRACE_FAILPOINTS"
_FORM = re.compile(r"(?P<name>[a-z0-9_.]+)=(?P<action>kill|stop|error|delay:(?P<ms>\d+)ms)(?::(?P<hit>\d+))?")


class InjectedFault(RuntimeError):
    """What `error` raises: the step did not happen, and nobody expected that."""


@dataclass(slots=True)
class _Point:
    action: str
    delay_ms: int
    on_hit: int  # 0 = each
    hits: int = 0
    guard: threading.Lock = field(default_factory=threading.Lock)

    def meet(self, name: str) -> None:
        with self.guard:
            self.hits += 1
            if self.on_hit and self.hits != self.on_hit:
                return
        if self.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.action == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif self.action == "error":
            raise InjectedFault(f"failpoint {name}")
        else:
            time.sleep(self.delay_ms / 1000)


_points: Mapping[str, _Point] | None = None


def parse(text: str) -> Mapping[str, _Point]:
    """The points of a MILLRACE_FAILPOINTS value. Raises ValueError naming the part that is not understood."""
    points: dict[str, _Point] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        if not (found := _FORM.fullmatch(part)):
            raise ValueError(f"{VARIABLE}: cannot read {part!r}; expected name=kill|stop|error|delay:<n>ms[:hit]")
        action = found["action"].split(":")[0]
        points[found["name"]] = _Point(action, int(found["ms"] or 0), int(found["hit"] or 0))
    return points


def failpoint(name: str) -> None:
    """Does what the environment asked for at this place: nothing, unless a test set it."""
    global _points
    if _points is None:
        _points = parse(os.environ.get(VARIABLE, ""))
    if _points and (point := _points.get(name)):
        point.meet(name)
