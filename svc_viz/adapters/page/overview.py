"""The overview's session: facts of every pipeline, pushed when they change."""

from __future__ import annotations

import json

from bokeh.document import Document

from svc_viz.adapters.page.models import Wire
from svc_viz.adapters.page.sessions import Pump
from svc_viz.domain import pipelines
from svc_viz.domain.board import NoticeBoard
from svc_viz.domain.hub import Mailbox


class OverviewSession:
    """One tab on the overview."""

    def __init__(self, doc: Document, board: NoticeBoard) -> None:
        self._board, self._wire, self._mailbox = board, Wire(), Mailbox()
        doc.add_root(self._wire)
        self._mailbox.post("world")
        self._stop_listening = board.listen(lambda: self._mailbox.post("world"))
        self._pump = Pump(doc, self._wire, 2.0, self._draw, self._mailbox.wait)
        self._wire.on_change("command", self._on_command)
        self._wire.on_change("seen", lambda _attr, _old, new: self._pump.painted(new))
        doc.on_session_destroyed(lambda _context: self.close())

    def close(self) -> None:
        self._pump.stop()
        self._stop_listening()

    def _on_command(self, _attr: str, _old: str, new: str) -> None:
        try:
            command = json.loads(new)
        except ValueError:
            return
        if isinstance(command, dict) and command.get("do") == "visible":
            self._pump.show(bool(command.get("value")))

    def _draw(self) -> None:
        self._mailbox.take()
        world = self._board.world
        why = f"storage does not answer: {world.unreachable}" if world.unreachable else ""
        live = {
            "state": "stale" if why else "live",
            "word": "Stale" if why else "Live",
            "text": "",
            "hint": why or "follows every change",
        }
        head = {"live": live, "banner": {"text": why, "since": 0}, "overview": pipelines.overview(world, "UTC")}
        self._wire.head = json.dumps(head, separators=(",", ":"))
