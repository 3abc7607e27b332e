"""Progress on stderr: a bar with rows, rate and time left on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from millrace.cli.grid import counted, span
from millrace.cli.terminal import colour, escaped, note

_LINE_EVERY_S = 2.0


@dataclass(slots=True)
class Task:
    """One thing under way. Rates and times left are over the whole task: they settle instead of jumping."""

    label: str
    unit: str = "rows"
    started: float = field(default_factory=time.monotonic)
    done: int = 0
    fraction: float = 0.0
    """0 to 1; 0 while unknown."""
    remark: str = ""

    def text(self, now: float | None = None) -> str:
        """ "1,240 rows · 620 rows/s · 3 s left"."""
        elapsed = max(1e-3, (time.monotonic() if now is None else now) - self.started)
        parts = [counted(self.done, self.unit)]
        if self.done and elapsed > 0.2:
            parts.append(f"{self.done / elapsed:,.0f} {self.unit}/s")
        if 0.0 < self.fraction < 1.0 and elapsed > 1.0:
            parts.append(f"{span(elapsed / self.fraction - elapsed)} left")
        return " · ".join([*parts, *([self.remark] if self.remark else [])])


class Reporter:
    """Shows tasks while they run. `quiet` shows none; use it as a context: it leaves the terminal as it was."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._bars: Progress | None = None
        self._ids: dict[int, int] = {}
        self._lines: dict[int, float] = {}

    def __enter__(self) -> Self:
        if not self._quiet and sys.stderr.isatty():
            console = Console(stderr=True, no_color=not colour(sys.stderr), highlight=False)
            self._bars = Progress(
                SpinnerColumn(), TextColumn("{task.description:<18}"), BarColumn(24), TextColumn("{task.fields[text]}"),
                console=console, transient=True,
            )  # fmt: skip
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def start(self, label: str, unit: str = "rows") -> Task:
        task = Task(escaped(label), unit)
        if self._bars is not None:
            self._ids[id(task)] = int(self._bars.add_task(task.label, total=None, text=""))
        self._lines[id(task)] = time.monotonic()
        return task

    def update(self, task: Task, done: int, fraction: float = 0.0, remark: str = "") -> None:
        """`done` and `fraction` never fall within a task."""
        task.done, task.fraction, task.remark = max(task.done, done), max(task.fraction, fraction), escaped(remark)
        if self._bars is not None:
            known = {"total": 1.0, "completed": min(1.0, task.fraction)} if task.fraction else {}
            self._bars.update(self._ids[id(task)], text=task.text(), **known)  # type: ignore[arg-type]
        elif not self._quiet and (now := time.monotonic()) - self._lines[id(task)] >= _LINE_EVERY_S:
            self._lines[id(task)] = now
            note(f"{task.label}: {task.text(now)}")

    def finish(self, task: Task) -> str:
        """Takes the bar away; returns what was done, for a last line."""
        if self._bars is not None:
            self._bars.remove_task(self._ids.pop(id(task)))  # type: ignore[arg-type]
        elapsed = time.monotonic() - task.started
        return f"{counted(task.done, task.unit)} in {span(elapsed)}"
