"""What browser and server share beside Bokeh's own models: one panel per element, one wire for commands."""

from __future__ import annotations

from bokeh.core.properties import Int, String
from bokeh.model import DataModel


class Panel(DataModel):  # type: ignore[misc]
    """What one element shows as JSON: {"status", …}. Texts in it are only ever set as text."""

    element = String(default="")
    payload = String(default="")


class Wire(DataModel):  # type: ignore[misc]
    """`head`: the page's own state as JSON, to the browser. `command`: what the reader did, as JSON with a running number. `seen`: the
    newest frame that the browser has painted; the next one waits for it, so that a stalled tab costs nothing."""

    head = String(default="")
    command = String(default="")
    frame = Int(default=0)
    seen = Int(default=0)
