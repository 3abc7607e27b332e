"""What browser and server share beside Bokeh's own models: one panel per element, one wire for commands."""

from __future__ import annotations

from typing import Any

from bokeh.core.properties import Int, String
from bokeh.model import DataModel


class Panel(DataModel):
    """What one element shows as JSON: {"status", …}. Texts in it are only ever set as text."""

    element: Any = String(default="")
    payload: Any = String(default="")


class Wire(DataModel):
    """`head`: the page's own state as JSON, to the browser. `command`: what the reader did, as JSON with a running number. `seen`: the
    newest frame that the browser has painted; the next one waits for it, so that a stalled tab costs nothing."""

    head: Any = String(default="")
    command: Any = String(default="")
    frame: Any = Int(default=0)
    seen: Any = Int(default=0)
