"""Live questions ask storage once per version, requests each time, and a failure is asked again."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import pytest

from millrace.errors import StoreUnavailable
from millrace.server.identity import Caller, set_caller
from svc_analysis.adapters.remembered import RememberedTables
from svc_analysis.ports import Facts


class Counting:
    """Answers after a moment; fails as often as asked to."""

    def __init__(self, failures: int = 0) -> None:
        self.asked: list[Any] = []
        self._failures = failures

    async def facts(self, name: str) -> Facts:
        self.asked.append(name)
        return Facts(name, "u", 1)

    async def pin(self, name: str, **how: Any) -> Any:
        self.asked.append((name, how["version"]))
        await asyncio.sleep(0.01)
        if self._failures:
            self._failures -= 1
            raise StoreUnavailable("away")
        return name, how["version"]


async def test_a_dozen_questions_pin_a_version_once() -> None:
    counting = Counting()
    tables = RememberedTables(counting)  # type: ignore[arg-type]
    found = await asyncio.gather(*(tables.pin("t", version=7, uid="u") for _ in range(12)))
    assert set(found) == {("t", 7)}
    await tables.pin("t", version=8, uid="u")
    assert counting.asked == [("t", 7), ("t", 8)]


async def test_a_failure_is_not_kept() -> None:
    counting = Counting(failures=1)
    tables = RememberedTables(counting)  # type: ignore[arg-type]
    with pytest.raises(StoreUnavailable):
        await tables.pin("t", version=7, uid="u")
    assert await tables.pin("t", version=7, uid="u") == ("t", 7)


async def test_a_newest_version_and_a_callers_question_go_to_storage_each_time() -> None:
    counting = Counting()
    tables = RememberedTables(counting)  # type: ignore[arg-type]

    async def as_person() -> None:
        set_caller(Caller("local"))
        for _ in range(2):
            await tables.pin("t", version=7, uid="u")
            await tables.facts("t")

    await asyncio.get_running_loop().create_task(as_person(), context=contextvars.copy_context())
    await tables.pin("t", version=None)
    await tables.pin("t", version=None)
    assert len(counting.asked) == 6


async def test_facts_hold_for_a_second() -> None:
    counting, now = Counting(), [100.0]
    tables = RememberedTables(counting, clock=lambda: now[0])  # type: ignore[arg-type]
    await tables.facts("t")
    await tables.facts("t")
    now[0] += 1.5
    await tables.facts("t")
    assert counting.asked == ["t", "t"]
