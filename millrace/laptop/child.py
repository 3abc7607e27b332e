"""One service as a process: started, watched, started again, stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from millrace.laptop import logfiles

BACKOFF_FIRST_S, BACKOFF_MAX_S = 0.2, 5.0
GIVE_UP_AFTER = 5
"""Starts in a row that end before they are ready."""

Ready = Callable[[], "asyncio.Future[bool]"]

WaitReady = Callable[[str], "asyncio.Task[None]"]
"""Given host:port, a task that ends once that serves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How one process is started. `name`: of the replica, "storage-2". `env`: on top of this process's own."""

    name: str
    module: str
    env: Mapping[str, str]
    log: Path
    target: str
    pass_fds: tuple[int, ...] = ()


class Child:
    """`ready` is set while the process serves. `why_down`: not empty once it is given up."""

    def __init__(self, recipe: Recipe, say: Callable[[str], None]) -> None:
        self.recipe = recipe
        self.ready = asyncio.Event()
        self.died_unready = asyncio.Event()
        self.why_down = ""
        self.restarts = False  # set once the start as a whole went well: before that one death ends it
        self._say = say
        self._process: asyncio.subprocess.Process | None = None
        self._log_from = 0
        self._stopping = False

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    @property
    def exit_text(self) -> str:
        """How the process ended: "ended with code 1", "was killed by SIGKILL"."""
        code = self._process.returncode if self._process is not None else None
        if code is None:
            return "did not start"
        return f"ended with code {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"

    def fatal_message(self) -> str:
        """The newest FATAL line of this start; empty when there is none."""
        return logfiles.fatal_message(self.recipe.log, self._log_from)

    def last_message(self) -> str:
        """The newest log line of this start, for one that does not get ready; empty when it wrote none."""
        return logfiles.last_message(self.recipe.log, self._log_from)

    async def start(self) -> None:
        """Must be called in the main thread: the kernel ends the child with the thread that made it."""
        self.ready.clear()
        log = logfiles.open_log(self.recipe.log)
        self._log_from = logfiles.size(self.recipe.log)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", self.recipe.module),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.recipe.env},
                process_group=0,  # Ctrl-C reaches the supervisor alone
                pass_fds=self.recipe.pass_fds,
            )
        finally:
            os.close(log)

    async def run(self, wait_ready: WaitReady, changed: Callable[[], None]) -> None:
        """Keeps the started process alive until `stop`. The first start that is not ready is the caller's to judge (`died_unready`)."""
        unready, pause = 0, BACKOFF_FIRST_S
        while True:
            was_ready = await self._until_death(wait_ready)
            if self._is_stopping() or not self.restarts:
                return
            unready, pause = (0, BACKOFF_FIRST_S) if was_ready else (unready + 1, pause)
            if unready >= GIVE_UP_AFTER:
                self.why_down = self.fatal_message() or f"{self.exit_text} {GIVE_UP_AFTER} times before it was ready"
                self._say(f"{self.recipe.name} stays down: {self.why_down} (log: {self.recipe.log})")
                changed()
                return
            self._say(f"{self.recipe.name} {self.exit_text}; starting it again")
            await asyncio.sleep(pause)
            pause = min(BACKOFF_MAX_S, pause * 2)
            if self._is_stopping():
                return
            await self.start()

    async def _until_death(self, wait_ready: WaitReady) -> bool:
        """Waits for the process's end; True when it had been ready."""
        if self._process is None:
            return False
        asking = wait_ready(self.recipe.target)
        asking.add_done_callback(lambda done: None if done.cancelled() or done.exception() else self._is_ready())
        try:
            await self._process.wait()
        finally:
            asking.cancel()
        was_ready = self.ready.is_set()
        self.ready.clear()
        if not was_ready:
            self.died_unready.set()
        return was_ready

    def _is_stopping(self) -> bool:
        return self._stopping

    def _is_ready(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self.ready.set()

    def signal(self, number: int) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def stop(self, limit_s: float) -> None:
        """SIGTERM drains; SIGKILL after `limit_s`."""
        self._stopping = True
        if self._process is None or self._process.returncode is not None:
            return
        self.signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._process.wait(), limit_s)
        except TimeoutError:
            self._say(f"{self.recipe.name} does not end: killing it")
            self.signal(signal.SIGKILL)
            await self._process.wait()
