"""Done, and then reported as timed out: a wrapper around any port that loses chosen answers.

    MILLRACE_CHAOS_LOST=CommitLog.append:3,ControlStore.run:5

lets the third `append` of the port that is wrapped as `CommitLog` finish, and raises OutcomeUnknown instead of returning what it gave.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from millrace.errors import OutcomeUnknown

VARIABLE = "MILLRACE_CHAOS_LOST"


class Losses:
    """Which answers of this process get lost: "Port.method" -> the hits on which. Counts over all objects of a port."""

    def __init__(self, wanted: Mapping[str, frozenset[int]]) -> None:
        self._wanted = wanted
        self._hits: Counter[str] = Counter()

    @classmethod
    def parse(cls, text: str) -> Losses:
        """Raises ValueError for anything but `Port.method:hit`, separated by commas."""
        wanted: dict[str, frozenset[int]] = {}
        for part in filter(None, text.split(",")):
            method, _, hit = part.partition(":")
            wanted[method] = wanted.get(method, frozenset()) | {int(hit)}
        return cls(wanted)

    def __bool__(self) -> bool:
        return bool(self._wanted)

    def answered(self, method: str) -> None:
        """Call when `method` has done its work. Raises OutcomeUnknown when nobody is to hear of it."""
        self._hits[method] += 1
        if self._hits[method] in self._wanted.get(method, frozenset()):
            raise OutcomeUnknown(f"the answer of {method} was lost", metadata={"injected": "true"})

    def wrap(self, port: Any, name: str, **gives: str) -> Any:
        """`port` itself when nothing is to be lost. `gives`: a method whose result is a port too -> that port's name."""
        return Wrapped(port, name, self, gives) if self else port


class Wrapped:
    """Stands for a port. Coroutine methods finish before their answer is lost; what is entered (`async with`) is entered first."""

    def __init__(self, port: Any, name: str, losses: Losses, gives: Mapping[str, str]) -> None:
        self._port, self._name, self._losses, self._gives = port, name, losses, gives

    def __getattr__(self, attribute: str) -> Any:
        found = getattr(self._port, attribute)
        if not callable(found) or attribute.startswith("_"):
            return found
        return self._calling(attribute, found)

    def _calling(self, method: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            given = inner(*args, **kwargs)
            if inspect.isawaitable(given):
                return self._awaited(method, given)
            if hasattr(given, "__aenter__") and not hasattr(
                given, "__enter__"
            ):  # nullcontext is both, and has no answer
                return self._entered(method, given)
            return given

        return call

    async def _awaited(self, method: str, given: Awaitable[Any]) -> Any:
        result = await given
        self._losses.answered(f"{self._name}.{method}")
        return self._given(method, result)

    @asynccontextmanager
    async def _entered(self, method: str, given: Any) -> AsyncIterator[Any]:
        async with given as result:
            self._losses.answered(f"{self._name}.{method}")
            yield self._given(method, result)

    def _given(self, method: str, result: Any) -> Any:
        name = self._gives.get(method)
        return Wrapped(result, name, self._losses, {}) if name else result
