"""Starts the five, each as one process or several, waits until they serve, keeps them alive, drains them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from millrace.laptop import logfiles
from millrace.laptop.backing import Backing
from millrace.laptop.child import Child, Recipe
from millrace.laptop.failure import UpFailed
from millrace.laptop.home import AREAS, PERSON, Endpoints, Home
from millrace.laptop.ports import Ports, instance
from millrace.laptop.readiness import wait_ready

READY_LIMIT_S = 180.0
STOP_LIMIT_S = 25.0
ROTATE_EVERY_S = 10.0
SERVER_LOOK_S = 0.5
LAST = ("storage",)
"""Stopped after the others, which commit and release their leases there."""

OnReady = Callable[[Endpoints], Awaitable[None]]


class Supervisor:
    """One run of the five services. `run` returns after a drain. `replicas`: processes per service. `storage_env`: what names the
    store. `server`: the store's, started already and kept alive here."""

    def __init__(
        self,
        home: Home,
        ports: Ports,
        modules: Mapping[str, str],
        say: Callable[[str], None],
        *,
        replicas: int = 1,
        storage_env: Mapping[str, str] | None = None,
        server: Backing | None = None,
    ) -> None:
        self._home, self._ports, self._say = home, ports, say
        self._replicas, self._storage_env, self._server = replicas, dict(storage_env or {}), server
        # Where the kernel does not tell a child of its parent's death, the end of this pipe does: only we hold its other side.
        self._alive = None if sys.platform.startswith("linux") else os.pipe()
        self._children = {
            instance(area, number): Child(self._recipe(area, number, modules[area]), say)
            for area in AREAS
            if area in modules
            for number in range(1, replicas + 1)
        }
        self._end = asyncio.Event()
        self._hurry = asyncio.Event()

    def _recipe(self, area: str, number: int, module: str) -> Recipe:
        name = instance(area, number)
        return Recipe(
            name=name,
            module=module,
            env=self._env(area, number),
            log=self._home.log(name),
            target=self._ports.target(name),
            pass_fds=() if self._alive is None else (self._alive[0],),
        )

    def _env(self, area: str, number: int) -> dict[str, str]:
        home, numbers = self._home, self._ports.numbers
        env = {
            "MILLRACE_HOME": str(home.root),
            "MILLRACE_TOKEN_FILE": str(home.token(area)),
            "MILLRACE_PRINCIPALS_FILE": str(home.principals),
            "MILLRACE_SO_REUSEPORT": "1",
            "MILLRACE_SUPERVISOR_PID": str(os.getpid()),
            f"MILLRACE_{area.upper()}_PORT": str(numbers[instance(area, number)]),
            **{f"MILLRACE_{peer.upper()}_TARGET": self._ports.service(peer) for peer in AREAS if peer != area},
            "PYTHONFAULTHANDLER": "1",
        }
        if self._alive is not None:
            env["MILLRACE_SUPERVISOR_FD"] = str(self._alive[0])
        if area == "viz":
            # A page's session lives in one process, and a laptop has no proxy that leads a browser back to it: the first serves it.
            env["MILLRACE_VIZ_PAGE_PORT"] = str(numbers["page"]) if number == 1 else "0"
        if area == "storage":
            env |= self._storage_env
            env["MILLRACE_STORAGE_DIRECT_FILES"] = os.environ.get("MILLRACE_STORAGE_DIRECT_FILES", "1")
        if area in ("analysis", "transform") and (endpoint := self._storage_env.get("MILLRACE_STORAGE_S3_ENDPOINT")):
            env[f"MILLRACE_{area.upper()}_STORE_ENDPOINTS"] = endpoint
        if area == "transform" and number > 1:  # it empties its spool when it starts
            spool = os.environ.get("MILLRACE_TRANSFORM_SPOOL_DIR") or str(home.root / "spool" / "transform")
            env["MILLRACE_TRANSFORM_SPOOL_DIR"] = f"{spool}-{number}"
        if area == "extract" and not os.environ.get("MILLRACE_EXTRACT_FILE_ROOTS"):
            env["MILLRACE_EXTRACT_FILE_ROOTS"] = ":".join(map(str, _file_roots(home)))
        return env

    def endpoints(self) -> Endpoints:
        return Endpoints(
            services={area: self._ports.service(area) for area in AREAS},
            replicas={area: self._ports.addresses(area) for area in AREAS} if self._replicas > 1 else {},
            url=f"http://{self._ports.target('page')}/?key={self._home.page_key()}",
            token_file=self._home.token(PERSON),
            pid=os.getpid(),
            home=self._home.root,
            down={name: child.why_down for name, child in self._children.items() if child.why_down},
        )

    async def run(self, on_ready: OnReady | None, serving: Callable[[Endpoints], None]) -> None:
        """`serving` is called once all serve and `on_ready` is through. Raises UpFailed when they do not; then nothing runs."""
        self._listen_to_signals()
        keeping: list[asyncio.Task[None]] = []
        try:
            await asyncio.gather(*(child.start() for child in self._children.values()))
            keeping = [asyncio.create_task(child.run(wait_ready, self._rewrite)) for child in self._children.values()]
            keeping.append(asyncio.create_task(self._rotate(), name="log rotation"))
            if self._server is not None:
                keeping.append(asyncio.create_task(self._keep_server(self._server), name="the store's server"))
            if await self._all_ready():
                for child in self._children.values():
                    child.restarts = True
                self.endpoints().write()
                await self._after_ready(on_ready, serving)
                await self._end.wait()
        finally:
            await self._stop()
            for task in keeping:
                task.cancel()
            await asyncio.gather(*keeping, return_exceptions=True)

    async def _after_ready(self, on_ready: OnReady | None, serving: Callable[[Endpoints], None]) -> None:
        """The hook, ended by Ctrl-C like everything else."""
        if on_ready is not None:
            hook = asyncio.ensure_future(on_ready(self.endpoints()))
            ended = asyncio.ensure_future(self._end.wait())
            try:
                await asyncio.wait({hook, ended}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                ended.cancel()
                if not hook.done():
                    hook.cancel()
                    await asyncio.wait({hook}, timeout=5.0)
            if hook.done() and not hook.cancelled():
                hook.result()
        if not self._end.is_set():
            serving(self.endpoints())

    async def _all_ready(self) -> bool:
        """False when the user ended it meanwhile. Raises UpFailed for a service that died, or that is not ready in time."""
        ready = [asyncio.ensure_future(child.ready.wait()) for child in self._children.values()]
        died = [asyncio.ensure_future(child.died_unready.wait()) for child in self._children.values()]
        ended = asyncio.ensure_future(self._end.wait())
        everything = asyncio.ensure_future(_all(ready))
        waiting: list[asyncio.Future[Any]] = [everything, ended, *died]
        try:
            await asyncio.wait(waiting, timeout=READY_LIMIT_S, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                return False
            if everything.done():
                return True
        finally:
            for one in (*waiting, *ready):
                one.cancel()
            await asyncio.gather(*waiting, *ready, return_exceptions=True)
        raise await self._start_failed()

    async def _start_failed(self) -> UpFailed:
        """Stops all first, then looks for what to say."""
        dead = [child for child in self._children.values() if child.died_unready.is_set()]
        late = [child for child in self._children.values() if not child.ready.is_set() and child not in dead]
        last_words = [child.last_message() or "says nothing" for child in late]
        await self._stop()
        for child in sorted(dead, key=lambda one: not one.fatal_message()):
            said = child.fatal_message() or f"{child.exit_text} before it was ready"
            return UpFailed(f"{child.recipe.name}: {said}", log=str(child.recipe.log))
        names = ", ".join(f"{child.recipe.name} ({said})" for child, said in zip(late, last_words, strict=True))
        return UpFailed(f"not ready in {READY_LIMIT_S:.0f} s: {names}", log=str(self._home.log("*")))

    async def _stop(self) -> None:
        first = [child for name, child in self._children.items() if not name.startswith(LAST)]
        last = [child for name, child in self._children.items() if name.startswith(LAST)]
        killer = asyncio.create_task(self._kill_when_hurried())
        for group in (first, last):
            await asyncio.gather(*(child.stop(STOP_LIMIT_S) for child in group))
        killer.cancel()

    async def _kill_when_hurried(self) -> None:
        await self._hurry.wait()
        for child in self._children.values():
            child.signal(signal.SIGKILL)

    def _listen_to_signals(self) -> None:
        """The first SIGINT, SIGTERM or SIGHUP drains, a second one kills."""

        def stop() -> None:
            if self._end.is_set():
                self._hurry.set()
                return
            self._say("draining; once more to stop at once")
            self._end.set()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, stop)

    def _rewrite(self) -> None:
        self.endpoints().write()

    async def _keep_server(self, server: Backing) -> None:
        while True:
            await asyncio.sleep(SERVER_LOOK_S)
            if server.is_dead() and not self._end.is_set():
                self._say(f"{server.name} ended; starting it again")
                try:
                    server.restart()  # in this thread, for a second or two
                except UpFailed as failed:
                    self._say(f"{server.name}: {failed.message}")

    async def _rotate(self) -> None:
        while True:
            await asyncio.sleep(ROTATE_EVERY_S)
            for child in self._children.values():
                await asyncio.to_thread(logfiles.rotate, child.recipe.log)


async def _all(waiting: Sequence[asyncio.Future[Any]]) -> None:
    for one in waiting:
        await one


def _file_roots(home: Home) -> tuple[Path, ...]:
    """What sources may read on a laptop: the start folder, the examples, the demo's files and the data folder."""
    here, examples = Path.cwd(), Path(__file__).parents[2] / "examples"
    return tuple(dict.fromkeys((here, examples, home.root / "demo", home.data)))


def default_modules() -> dict[str, str]:
    return {area: f"svc_{area}" for area in AREAS}
