"""The hub shares streams, survives their breaks, and a desk asks only what changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

from millrace.errors import StoreUnavailable
from svc_viz.adapters.memory.answers import MemoryAnswers
from svc_viz.domain.board import NoticeBoard
from svc_viz.domain.desk import Desk
from svc_viz.domain.hub import Hub, Mailbox
from svc_viz.domain.state import PageState
from svc_viz.ports import Question, World
from tests.unit.viz.conftest import DASHBOARD, FACTS, ROWS, TABLE


def clock() -> datetime:
    return datetime.now(UTC)


async def until(condition: Callable[[], object], limit_s: float = 5.0) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.005)


def hub_of(answers: MemoryAnswers) -> Hub:
    return Hub(answers, clock, min_interval_ms=5)


def desk_of(hub: Hub, state: PageState | None = None) -> Desk:
    return Desk(DASHBOARD, state or PageState(), hub, NoticeBoard(World(tables=FACTS, unreachable="")))


async def test_equal_questions_share_one_stream(answers: MemoryAnswers) -> None:
    hub, question = hub_of(answers), Question(TABLE, limit=1)
    told: list[int] = []
    followers = [hub.follow(question, lambda: told.append(1)) for _ in range(20)]
    await until(lambda: len(told) == 20)
    assert answers.asked == 1
    assert hub.streams == 1
    await answers.append(TABLE, ROWS.slice(0, 1))
    await until(lambda: len(told) == 40)
    assert answers.asked == 2
    for follower in followers:
        follower.close()
    assert hub.streams == 0
    await hub.close()


async def test_a_break_keeps_the_last_answer_and_says_since_when(answers: MemoryAnswers) -> None:
    hub = hub_of(answers)
    follower = hub.follow(Question(TABLE, limit=1), lambda: None)
    await until(lambda: follower.latest.answer)
    await answers.fail(StoreUnavailable("gone"))
    await until(lambda: follower.latest.trouble)
    assert follower.latest.answer is not None
    assert follower.latest.trouble is not None
    assert not follower.latest.trouble.lasting
    await answers.fail(None)
    await until(lambda: follower.latest.trouble is None)
    await hub.close()


async def test_a_question_that_cannot_be_answered_is_an_error_not_a_break(answers: MemoryAnswers) -> None:
    hub = hub_of(answers)
    follower = hub.follow(Question("namespaces/default/tables/none"), lambda: None)
    await until(lambda: follower.latest.trouble)
    assert follower.latest.trouble is not None
    assert follower.latest.trouble.lasting
    await hub.close()


async def test_a_mailbox_keeps_the_newest_only() -> None:
    box = Mailbox()
    for _ in range(10_000):
        box.post("a")
    box.post("b")
    await asyncio.wait_for(box.wait(), 1)
    assert box.take() == ["a", "b"]
    assert box.take() == []


async def test_a_desk_draws_every_element_and_only_affected_questions_run_again(answers: MemoryAnswers) -> None:
    hub = hub_of(answers)
    desk = desk_of(hub)
    await until(lambda: (desk.settle(), all(desk.view(name).status == "ok" for name in desk.spec.elements))[1])
    before = answers.asked
    assert desk.brush("hist", 12.0, 47.0)
    assert desk.state.picks["hist"].low == 10  # type: ignore[union-attr]
    await until(lambda: (desk.settle(), desk.view("kpi").payload.get("value") == "2")[1])
    assert desk.view("hist").plot is not None
    assert answers.asked - before <= 6, "its own chart and the unfiltered card are not asked again"
    assert desk.picked_text("hist") == ("Delay", "10–45 min")
    assert not desk.brush("hist", 12.0, 47.0), "nothing changed, nothing is asked"
    assert desk.options == {"origin": ("EWR", "JFK", "LGA")}
    desk.close()
    assert hub.streams == 0
    await hub.close()


async def test_while_one_question_is_in_flight_the_newest_wins(answers: MemoryAnswers) -> None:
    hub = hub_of(answers)
    desk = desk_of(hub)
    await until(lambda: (desk.settle(), desk.view("kpi").status == "ok")[1])
    before = answers.asked
    for high in range(10, 60):
        desk.brush("hist", -20.0, float(high))
    await until(lambda: (desk.settle(), desk.view("ts").status == "ok" and not desk.mailbox.take())[1])
    await asyncio.sleep(0.2)
    desk.settle()
    assert answers.asked - before < 50 * 5, "steps of a brush that nobody saw are not asked"
    assert desk.answer("kpi") is not None
    desk.close()
    await hub.close()


async def test_stale_cards_keep_their_numbers(answers: MemoryAnswers) -> None:

    hub = hub_of(answers)
    desk = desk_of(hub)
    await until(lambda: (desk.settle(), desk.view("kpi").status == "ok")[1])
    await answers.fail(StoreUnavailable("gone"))
    await until(lambda: (desk.settle(), desk.view("kpi").status == "stale")[1])
    assert desk.trouble is not None
    assert desk.view("kpi").payload["value"] == "6", "the last numbers stay"
    await answers.fail(None)
    await until(lambda: (desk.settle(), desk.view("kpi").status == "ok")[1])
    desk.close()
    await hub.close()
