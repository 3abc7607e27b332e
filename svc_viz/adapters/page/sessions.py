"""One browser tab: its Bokeh document, what the reader does, and what is drawn when answers come."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from bokeh.document import Document
from bokeh.events import DoubleTap, SelectionGeometry, Tap

from svc_viz.adapters.page.figures import Chart, build
from svc_viz.adapters.page.models import Panel, Wire
from svc_viz.domain import cards, pipelines
from svc_viz.domain.board import NoticeBoard
from svc_viz.domain.desk import Desk
from svc_viz.domain.drawings import DRAWN, Drawing
from svc_viz.domain.measures import range_s
from svc_viz.domain.state import Interval, PageState, encode
from svc_viz.domain.validation import cells_of
from svc_viz.domain.zones import ticks, zone_label, zone_of
from svc_viz.ports import Dashboard, TableFacts

log = logging.getLogger(__name__)

ACK_S = 5.0
HURRY_S = 1.0
GATHER_S, GATHER_HURRY_S = 0.05, 0.015
"""Answers of one version arrive one after the other: a frame waits this long for the others, so that cards agree."""
RANGES = (
    ("last 24h", "24 hours"),
    ("last 72h", "72 hours"),
    ("last 7d", "7 days"),
    ("last 30d", "30 days"),
    ("all", "All time"),
)


class Pump:
    """Takes a mailbox to a document: at most `rate_hz` frames a second, at once after the reader did something, none while
    the tab is hidden or has not painted the one before."""

    def __init__(
        self,
        doc: Document,
        wire: Wire,
        rate_hz: float,
        draw: Callable[[], None],
        wait: Callable[[], Any],
        measured: Callable[[float], None] = lambda _: None,
    ) -> None:
        """`measured`: told the seconds of each frame that was painted."""
        self._measured = measured
        self._doc, self._wire, self._interval, self._draw, self._wait = doc, wire, 1 / rate_hz, draw, wait
        self._hurry = asyncio.Event()
        self._hurry_until = 0.0
        self._visible = asyncio.Event()
        self._visible.set()
        self._painted = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name="page session")

    def hurry(self) -> None:
        self._hurry_until = asyncio.get_running_loop().time() + HURRY_S
        self._hurry.set()

    def show(self, visible: bool) -> None:
        if visible:
            self._visible.set()
        else:
            self._visible.clear()

    def painted(self, frame: int) -> None:
        if frame >= self._wire.frame:
            self._painted.set()

    def stop(self) -> None:
        self._task.cancel()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wait()
            await self._visible.wait()
            began = loop.time()
            await asyncio.sleep(GATHER_HURRY_S if began < self._hurry_until else GATHER_S)
            await self._one_frame()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._painted.wait(), ACK_S)
                self._measured(loop.time() - began)
            if loop.time() >= self._hurry_until:
                self._hurry.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._hurry.wait(), max(0.0, 0.9 * self._interval - (loop.time() - began)))

    async def _one_frame(self) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def apply() -> None:
            try:
                self._painted.clear()
                self._draw()
                self._wire.frame += 1
            except Exception:
                log.exception("a frame could not be drawn")
            finally:
                if not done.done():
                    done.set_result(None)

        self._doc.add_next_tick_callback(apply)
        with suppress(TimeoutError):
            await asyncio.wait_for(done, ACK_S)


@dataclass(slots=True)
class Roots:
    """Ids for the page: element -> figure's model id, and the models that have no place of their own."""

    figures: dict[str, str]
    others: list[str]


class DashboardSession:
    """Builds the document and keeps it up to date until the session ends."""

    def __init__(
        self, doc: Document, desk: Desk, board: NoticeBoard, measured: Callable[[float], None] = lambda _: None
    ) -> None:
        self._doc, self._desk, self._board = doc, desk, board
        self._charts: dict[str, Chart] = {}
        self._panels: dict[str, Panel] = {}
        self._wire = Wire()
        with doc.models.freeze():
            self._build()
        self._pump = Pump(doc, self._wire, desk.spec.live.max_rate_hz, self._draw, desk.mailbox.wait, measured)
        self._wire.on_change("command", self._on_command)
        self._wire.on_change("seen", lambda _attr, _old, new: self._pump.painted(new))
        doc.on_session_destroyed(lambda _context: self.close())

    def close(self) -> None:
        self._pump.stop()
        self._desk.close()

    def _build(self) -> None:
        spec = self._desk.spec
        heights = {name: row.h for row in spec.rows for name, _ in cells_of(row.cells, spec.columns)}
        for name, element in spec.elements.items():
            panel = Panel(element=name)
            self._panels[name] = panel
            self._doc.add_root(panel)
            if element.kind in DRAWN and name in heights:
                self._add_chart(name, max(60, heights[name] - 66))
        self._doc.add_root(self._wire)

    def _add_chart(self, name: str, height: int) -> None:
        chart = build(Drawing.of(self._desk.spec, name, self._desk.zone), height)
        chart.figure.name = name
        self._charts[name] = chart
        if self._desk.spec.elements[name].select is not None:
            chart.figure.on_event(SelectionGeometry, lambda event: self._on_brush(name, event))
            chart.figure.on_event(Tap, lambda event: self._on_tap(name, event))
        chart.figure.on_event(DoubleTap, lambda _event: self._on_double_tap(name))
        self._doc.add_root(chart.figure)

    # -- what the reader does -----------------------------------------------------------------------------------------
    def _on_brush(self, name: str, event: Any) -> None:
        low, high = sorted((float(event.geometry["x0"]), float(event.geometry["x1"])))
        self._pump.hurry()
        self._desk.brush(name, low, high)

    def _on_tap(self, name: str, event: Any) -> None:
        """A click on a bar selects it; a click beside a brush lets it go."""
        drawing, at, pick = self._charts[name].drawing, float(event.x), self._desk.state.picks.get(name)
        self._pump.hurry()
        if isinstance(pick, Interval):
            shift = 0.0 if drawing.spec.x in drawing.query.bins else 0.5
            if not pick.low - shift <= at < pick.high - shift:
                self._desk.choose(self._desk.state.with_pick(name, None))
            return
        width = drawing.query.bins.get(drawing.spec.x, 1.0)
        low = (at // width) * width if drawing.spec.x in drawing.query.bins else float(round(at))
        self._desk.choose(self._desk.state.with_pick(name, Interval(low, low + width)))

    def _on_double_tap(self, name: str) -> None:
        chart = self._charts[name]
        chart.zoomed = False
        self._desk.mailbox.post((name, "zoom"))
        self._pump.hurry()

    def _on_command(self, _attr: str, _old: str, new: str) -> None:
        try:
            command = json.loads(new)
            self._pump.hurry()
            self._obey(command)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("a page sent a command that means nothing: %s", error)

    def _obey(self, command: dict[str, Any]) -> None:
        desk, state = self._desk, self._desk.state
        match command["do"]:
            case "range" if isinstance(command["value"], str):
                range_s(command["value"])
                desk.choose(replace(state, range=command["value"]))
            case "zone" if isinstance(command["value"], str):
                zone_of(command["value"])
                desk.choose(replace(state, zone=command["value"]))
            case "param" if command["id"] in desk.spec.params:
                desk.choose(state.with_param(command["id"], tuple(str(one) for one in command["values"][:100])))
            case "pick" if command["id"] in desk.spec.elements and desk.spec.elements[command["id"]].select is not None:
                desk.click(command["id"], str(command["value"]), more=bool(command.get("more")))
            case "brush" if command["id"] in self._charts:
                desk.brush(command["id"], float(command["low"]), float(command["high"]))
            case "unpick":
                desk.choose(state.with_pick(str(command["id"]), None))
            case "clear":
                desk.choose(state.cleared())
            case "unzoom" if command["id"] in self._charts:
                self._on_double_tap(command["id"])
            case "visible":
                self._pump.show(bool(command["value"]) or not desk.spec.live.pause_when_hidden)
            case "zoom" if command["id"] in self._charts:
                self._zoom(self._charts[command["id"]], float(command["start"]), float(command["end"]))

    def _zoom(self, chart: Chart, start: float, end: float) -> None:
        """The reader's own range: live data no longer move it, its ticks are made anew."""
        if chart.drawn is None or not start < end:
            return
        chart.zoomed = True
        chart.label(ticks(start, end, self._desk.zone) if chart.drawn.is_time else chart.drawn.ticks)

    # -- what is drawn ------------------------------------------------------------------------------------------------
    def _draw(self) -> None:
        changed = set(self._desk.settle())
        if "" in changed:
            changed |= set(self._desk.state.picks) | {
                name for name, one in self._desk.spec.elements.items() if one.kind in {"table", "dead_letters"}
            }
        for name in changed & self._panels.keys():
            self._draw_element(name)
        for name, chart in self._charts.items():
            pick = self._desk.state.picks.get(name)
            chart.select(*((pick.low, pick.high) if isinstance(pick, Interval) else (None, None)))
        head = json.dumps(self._head(), separators=(",", ":"))
        if head != self._wire.head:
            self._wire.head = head

    def _draw_element(self, name: str) -> None:
        if self._desk.spec.elements[name].kind in {"pipeline", "freshness"}:
            return
        view = self._desk.view(name)
        if view.plot is not None and name in self._charts:
            self._charts[name].drawing = self._desk.drawing(name)
            self._charts[name].apply(view.plot)
        payload = json.dumps({"status": view.status, **view.payload}, separators=(",", ":"))
        if payload != self._panels[name].payload:
            self._panels[name].payload = payload

    def _head(self) -> dict[str, Any]:
        desk, world = self._desk, self._board.world
        trouble, commit = desk.trouble, desk.commit_time
        table = desk.table
        why = f"analysis does not answer: {trouble.message}" if trouble else ""
        facts = world.tables.get(table, TableFacts())
        return {
            "live": pipelines.live_dot(world, desk.dashboard.name, table, desk.zone, why, desk.seen),
            "strip": pipelines.strip(world, desk.dashboard.name, table, desk.subscriptions, facts.row_count, why),
            "banner": {
                "text": why or (world.unreachable and f"storage does not answer: {world.unreachable}"),
                "since": trouble.since_ms if trouble else 0,
            },
            "range": desk.range,
            "zone": desk.zone,
            "query": encode(desk.state),
            "params": cards.chips(desk.spec, desk.state.params, desk.options),
            "picks": [
                dict(zip(("label", "text"), desk.picked_text(name), strict=True), id=name) for name in desk.state.picks
            ],
            "clear": desk.state.filters,
            "commit": commit.timestamp() * 1000 if commit else None,
        }


def ranges_of(dashboard: Dashboard) -> list[tuple[str, str]]:
    """The choices of the range select; a dashboard's own unusual range comes first."""
    own = dashboard.spec.time.range or "all"
    known = dict(RANGES)
    return list(RANGES) if own in known else [(own, own.removeprefix("last ")), *RANGES]


def zones_of(dashboard: Dashboard, state: PageState) -> list[tuple[str, str]]:
    """The dashboard's zone and UTC, and the one that a link asks for."""
    names = dict.fromkeys([dashboard.spec.time.zone or "UTC", "UTC", *([state.zone] if state.zone else [])])
    return [(name, zone_label(name)) for name in names]
