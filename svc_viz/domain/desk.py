"""One reader's session: what was chosen, which questions that means, and what each element shows of their answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from millrace.errors import MillraceError
from svc_viz.domain import cards, charts
from svc_viz.domain.board import NoticeBoard
from svc_viz.domain.compiling import Compiler, season_of, selected_column
from svc_viz.domain.drawings import DRAWN, Drawing
from svc_viz.domain.hub import Follower, Hub, Latest, Mailbox, Trouble
from svc_viz.domain.measures import duration_s
from svc_viz.domain.results import trimmed, values
from svc_viz.domain.state import Interval, PageState, Points
from svc_viz.domain.validation import ASKING
from svc_viz.ports import Answer, Dashboard, ElementSpec, ForecastAsk, Question

Slot = tuple[str, str]
log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Held:
    """A slot's stream. `next`: what it asks as soon as the present question has its first answer: one in flight, the newest wins."""

    follower: Follower
    shown: Latest = field(default_factory=Latest)
    shown_for: Question | None = None
    next: Question | None = None


@dataclass(frozen=True, slots=True)
class View:
    """`status`: loading, ok, empty, error, stale. `payload` is JSON-ready; `plot` is set for what Bokeh draws."""

    status: str
    payload: dict[str, Any]
    plot: charts.Plot | None = None


class Desk:
    """Owns the session's follows. Single-threaded; `close` it."""

    def __init__(self, dashboard: Dashboard, state: PageState, hub: Hub, board: NoticeBoard) -> None:
        self.dashboard, self.spec = dashboard, dashboard.spec
        self.state = state
        self.mailbox = Mailbox()
        self._hub, self._board = hub, board
        self._held: dict[Slot, _Held] = {}
        self._forecasts: dict[str, tuple[ForecastAsk, Answer | None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self._kinds: Mapping[str, Any] = {}
        self._compiler = self._compile()
        self._stop_listening = board.listen(self._on_world)
        self._ask_all()

    # -- choices ------------------------------------------------------------------------------------------------------
    @property
    def zone(self) -> str:
        return self._compiler.zone

    @property
    def range(self) -> str:
        return self._compiler.range

    @property
    def table(self) -> str:
        """Full name of the table whose time this is."""
        return self._compiler.full_name(self.spec.time.table) if self.spec.time.table else ""

    def choose(self, state: PageState) -> None:
        """Moves to another state; only what changes is asked anew."""
        if state != self.state:
            self.state = state
            self._compiler = self._compile()
            self._ask_all()

    def brush(self, element: str, low: float, high: float, *, snap: bool = True) -> bool:
        """Selects whole bins that [low, high) touches; False when nothing changed."""
        drawing = Drawing.of(self.spec, element, self.zone)
        width = drawing.query.bins.get(drawing.spec.x, 1.0)
        shift = 0.0 if drawing.spec.x in drawing.query.bins else 0.5
        if snap:
            low = round((low + shift) / width) * width
            high = max(low + width, round((high + shift) / width) * width)
        pick = Interval(low, high)
        if self.state.picks.get(element) == pick:
            return False
        self.choose(self.state.with_pick(element, pick, single=self._single(element)))
        return True

    def click(self, element: str, value: str, *, more: bool) -> None:
        """Picks a value or lets it go; `more` keeps the others."""
        old = self.state.picks.get(element)
        kept = old.values if isinstance(old, Points) else ()
        if more:
            chosen = tuple(one for one in kept if one != value) if value in kept else (*kept, value)
        else:
            chosen = () if kept == (value,) else (value,)
        self.choose(self.state.with_pick(element, Points(chosen) if chosen else None, single=self._single(element)))

    def _single(self, element: str) -> bool:
        select = self.spec.elements[element].select
        return select is not None and self.spec.selections.get(select.selection) == "single"

    def picked_text(self, element: str) -> tuple[str, str]:
        """A chip's label and text: ("Delay", "40–145 min")."""
        spec, pick = self.spec.elements[element], self.state.picks[element]
        column = selected_column(spec)
        label = self.spec.fields[column].label if column in self.spec.fields else ""
        label = label or column.replace("_", " ").capitalize()
        if isinstance(pick, Interval):
            return label, charts.interval_text(Drawing.of(self.spec, element, self.zone), pick.low, pick.high)
        shown = ", ".join(pick.values[:3])
        return label, f"{shown} and {len(pick.values) - 3} more" if len(pick.values) > 3 else shown

    # -- following ----------------------------------------------------------------------------------------------------
    def _compile(self) -> Compiler:
        tables = self._board.world.tables
        self._kinds = {name: facts.columns for name, facts in tables.items()}
        return Compiler(self.dashboard, self.state, tables)

    def _on_world(self) -> None:
        if {name: facts.columns for name, facts in self._board.world.tables.items()} != self._kinds:
            self._compiler = self._compile()
            self._ask_all()
        self.mailbox.post(("", "world"))

    def wanted(self) -> dict[Slot, Question]:
        """Every slot's question in the present state."""
        found: dict[Slot, Question] = {}
        if self.table:
            asked = [name for name, param in self.spec.params.items() if not param.options]
            found |= {("", f"options {name}"): self._compiler.options(name) for name in asked}
        for name, spec in self.spec.elements.items():
            if spec.kind not in ASKING:
                continue
            found[name, "now"] = self._compiler.question(name)
            if spec.kind in DRAWN and spec.x == "time":
                found |= {(name, f"note{i}"): self._compiler.note(i) for i in range(len(self.spec.annotations))}
            if spec.compare:
                found[name, "before"] = self._compiler.before(name)
            if spec.sparkline:
                found[name, "spark"] = self._compiler.spark(name)
            if spec.kind in DRAWN and spec.select is not None and not spec.stack:
                base = self._compiler.question(name, base=True)
                if base != found[name, "now"]:
                    found[name, "base"] = base
        return found

    def _ask_all(self) -> None:
        wanted = self.wanted()
        for slot in [slot for slot in self._held if slot not in wanted]:
            self._held.pop(slot).follower.close()
            self.mailbox.post(slot)
        for slot, question in wanted.items():
            self._ask(slot, question)
        self.mailbox.post(("", "state"))

    def _ask(self, slot: Slot, question: Question) -> None:
        held = self._held.get(slot)
        if held is None:
            self._held[slot] = held = _Held(self._follow(slot, question))
        elif held.follower.question == question:
            held.next = None
        elif (
            held.shown_for != held.follower.question
            and held.follower.latest.number == 0
            and held.follower.latest.trouble is None
        ):
            held.next = question
        else:
            self._switch(slot, held, question)

    def _switch(self, slot: Slot, held: _Held, question: Question) -> None:
        old, held.next = held.follower, None
        held.follower = self._follow(slot, question)
        old.close()

    def _follow(self, slot: Slot, question: Question) -> Follower:
        return self._hub.follow(question, lambda: self.mailbox.post(slot))

    def settle(self) -> list[str]:
        """Takes the mailbox: the elements to draw again. The element "" is the page's own head."""
        changed: dict[str, None] = {}
        for one in self.mailbox.take():
            assert isinstance(one, tuple)
            changed[one[0]] = None
            if (held := self._held.get(one)) is not None:
                self._take(one, held)
        return list(changed)

    def _take(self, slot: Slot, held: _Held) -> None:
        latest = held.follower.latest
        if latest.answer is not None or held.shown.answer is None or held.shown_for == held.follower.question:
            held.shown, held.shown_for = latest, held.follower.question
        elif latest.trouble is not None:
            held.shown = Latest(held.shown.answer, latest.trouble, held.shown.number)
        if held.next is not None and (latest.number or latest.trouble):
            self._switch(slot, held, held.next)

    @property
    def subscriptions(self) -> int:
        return len({held.follower.question for held in self._held.values()})

    @property
    def trouble(self) -> Trouble | None:
        """Why the page is stale, the oldest reason."""
        found = [held.follower.latest.trouble for held in self._held.values()]
        return min((one for one in found if one and not one.lasting), key=lambda one: one.since_ms, default=None)

    def _timed(self) -> list[Answer]:
        """Answers from the table whose time this is; other tables' clocks (when a dead letter was kept) say nothing about it."""
        table = self.table
        return [
            held.shown.answer
            for held in self._held.values()
            if held.shown.answer is not None and held.shown_for is not None and held.shown_for.table == table
        ]

    @property
    def seen(self) -> datetime | None:
        """The newest event time that an answer here covers."""
        return max((one.event_time_high for one in self._timed() if one.event_time_high), default=None)

    @property
    def commit_time(self) -> datetime | None:
        """The newest commit that an answer here covers."""
        return max((one.commit_time for one in self._timed() if one.commit_time), default=None)

    @property
    def options(self) -> dict[str, tuple[str, ...]]:
        """What params without options of their own offer; sorted, so that chips do not move."""
        found = {}
        for name, param in self.spec.params.items():
            if (answer := self.answer("", f"options {name}")) is not None:
                known = [one for one in values(answer.rows, param.column) if one is not None]
                found[name] = tuple(sorted(cards.key_of(one) or "" for one in known))
        return found

    # -- views --------------------------------------------------------------------------------------------------------
    def answer(self, element: str, role: str = "now") -> Answer | None:
        held = self._held.get((element, role))
        if held is None or held.shown.answer is None or held.shown_for is None:
            return None
        return trimmed(held.shown.answer, held.shown_for)

    def view(self, element: str) -> View:
        spec = self.spec.elements[element]
        held = self._held.get((element, "now"))
        now = self.answer(element)
        trouble = held.shown.trouble if held else None
        if now is None:
            if trouble is None:
                return View("loading", {})
            return View("error" if trouble.lasting else "stale", {"reason": trouble.message})
        view = self._hub.shared(*self._sources(element, spec), lambda: self._drawn(element, spec, now))
        if trouble is not None:
            return View(
                "error" if trouble.lasting else "stale",
                {**view.payload, "reason": trouble.message, "since": trouble.since_ms},
                view.plot,
            )
        return view

    def _sources(self, element: str, spec: ElementSpec) -> tuple[Hashable, tuple[object, ...]]:
        """What a view depends on: a key, and the objects it is made of."""
        pick = self.state.picks.get(element)
        key = (
            self.dashboard.name,
            element,
            self.zone,
            self._compiler.bucket(element),
            pick if spec.kind == "table" else None,
        )
        answers = [held.shown.answer for (name, _), held in self._held.items() if name == element]
        if spec.forecast is not None and (now := self.answer(element)) is not None:
            answers.append(self._forecast(element, now))
        facts = self._board.world.tables.get(self._compiler.full_name(spec.table)) if spec.table else None
        questions = tuple(held.shown_for for (name, _), held in self._held.items() if name == element)
        return (key, questions), (self.spec, facts, *answers)

    def _drawn(self, element: str, spec: ElementSpec, now: Answer) -> View:
        if spec.kind in DRAWN:
            return self._chart(element, now)
        status = "ok" if now.rows.num_rows else "empty"
        match spec.kind:
            case "kpi":
                before, spark = self.answer(element, "before"), self.answer(element, "spark")
                return View("ok", cards.kpi(self.spec, spec, now, before, spark, self.zone))
            case "table":
                pick = self.state.picks.get(element)
                picked = pick.values if isinstance(pick, Points) else ()
                return View(status, cards.table(self.spec, spec, now.rows, self.zone, picked))
            case "multiples":
                return View(status, cards.multiples(self.spec, spec, now.rows, self.zone))
            case "dead_letters":
                facts = self._board.world.tables.get(self._compiler.full_name(spec.table)) if spec.table else None
                return View(status, cards.dead_letters(self.spec, spec, now.rows, facts))
        return View("ok", cards.summary(self.spec, spec, now))

    def drawing(self, element: str) -> Drawing:
        """How an element is drawn in the present zone and range."""
        return Drawing.of(self.spec, element, self.zone, self._compiler.bucket(element))

    def _chart(self, element: str, now: Answer) -> View:
        drawing = self.drawing(element)
        base = self.answer(element, "base")
        band = self._forecast(element, now)
        noted = (
            [self.answer(element, f"note{i}") for i in range(len(self.spec.annotations))]
            if drawing.spec.x == "time"
            else []
        )
        notes = charts.notes_of([one.rows for one in noted if one], self.zone)
        drawn = charts.plot(drawing, now.rows, base.rows if base else None, band.rows if band else None, notes)
        payload: dict[str, Any] = {
            "summary": drawn.summary,
            "legend": [{"label": one.label, "state": one.state} for one in drawn.series]
            if drawing.spec.stack or len(drawn.series) > 1
            else [],
            "tips": {
                "left": drawn.left.tolist(),
                "right": drawn.right.tolist(),
                "titles": drawn.titles,
                "texts": drawn.texts,
                "series": [{"label": one.label, "state": one.state} for one in drawn.series],
            },
            "table": charts.twin(drawing, drawn),
            "time": drawn.is_time,
            "aside": drawing.per if drawing.query.bucket != self.spec.queries[drawing.spec.query].bucket else "",
        }
        if drawn.notes:
            payload["notes"] = [{"from": one.start, "to": one.end, "text": one.text} for one in drawn.notes]
        if drawn.band is not None:
            payload["band"] = {
                "left": drawn.band.left.tolist(),
                "right": drawn.band.right.tolist(),
                "titles": drawn.band.titles,
                "texts": drawn.band.texts,
                "label": f"Forecast, {round((drawing.spec.forecast.level if drawing.spec.forecast else 0.8) * 100)} %",
            }
        return View("empty" if drawn.empty else "ok", payload, drawn)

    # -- forecast -----------------------------------------------------------------------------------------------------
    def _forecast(self, element: str, now: Answer) -> Answer | None:
        """The band for the newest bucket; computed in the background, the last one stays meanwhile."""
        spec = self.spec.elements[element]
        if spec.forecast is None:
            return None
        newest = max((at for at in values(now.rows, "time") if isinstance(at, datetime)), default=None)
        if newest is None:
            return None
        question = self._compiler.history(element, newest.astimezone(UTC))
        if question is None:
            return None
        bucket = self.spec.queries[spec.query].bucket
        ask = ForecastAsk(
            question,
            "time",
            spec.y,
            spec.forecast.horizon,
            spec.forecast.level,
            season_of(bucket, spec.forecast.season_length),
        )
        known = self._forecasts.get(element)
        if known is None and (former := self._hub.former(ask)) is not None:
            known = self._forecasts[element] = former
        if known is None or (
            known[0] != ask and not any(task.get_name() == f"forecast {element}" for task in self._tasks)
        ):
            task = asyncio.create_task(self._compute(element, ask), name=f"forecast {element}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if known is None or known[1] is None:
            return None
        fits = known[0].question.where == question.where and newest - (known[0].question.end or newest) < timedelta(
            seconds=spec.forecast.horizon * duration_s(bucket)
        )
        return known[1] if fits else None

    async def _compute(self, element: str, ask: ForecastAsk) -> None:
        self._forecasts[element] = (ask, self._forecasts.get(element, (ask, None))[1])
        try:
            answer: Answer | None = await self._hub.forecast(ask)
        except MillraceError as error:
            answer = None  # a series that cannot be forecast has no band; the bars stand
            log.info("no forecast for %s: %s [%s]", element, error.message, error.reason)
        if not self._closed:
            self._forecasts[element] = (ask, answer)
            self.mailbox.post((element, "forecast"))

    def close(self) -> None:
        self._closed = True
        self._stop_listening()
        for held in self._held.values():
            held.follower.close()
        self._held.clear()
        for task in tuple(self._tasks):
            task.cancel()
