"""`millrace up`: in the foreground until Ctrl-C, or detached. Nothing here imports grpc before the fork."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import traceback
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from millrace.errors import MillraceError
from millrace.laptop.backing import Backing, backing, check
from millrace.laptop.detach import detached
from millrace.laptop.failure import UpFailed
from millrace.laptop.home import Endpoints, Home
from millrace.laptop.logfiles import append_line
from millrace.laptop.pidfile import PidFile
from millrace.laptop.ports import PORT_BASE, Ports, bind

MIN_FREE_BYTES = 64 << 20


def _print(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


@dataclass(frozen=True, slots=True, kw_only=True)
class UpOptions:
    """`on_ready` runs once all five serve (the demo); `on_serving` after that, for the last words on the terminal.
    `modules`: what is started per service, for tests; a service left out is not started."""

    home: Path
    port_base: int = PORT_BASE  # of the page; 0: any free ports
    detach: bool = False
    replicas: int = 1  # processes per service
    backend: str = ""  # of storage: local, memory, s3, cassandra; empty: as MILLRACE_STORAGE_BACKEND says
    servers: bool = False  # start the store's server too
    on_ready: Callable[[Endpoints], Awaitable[None]] | None = None
    on_serving: Callable[[Endpoints], None] | None = None
    say: Callable[[str], None] = _print  # one line of status
    modules: Mapping[str, str] = field(default_factory=dict)


def up(options: UpOptions) -> int:
    """The exit code: 0 after a drain (detached: once all serve), also when it runs already; 1 after one line of what is wrong."""
    home = Home(options.home.expanduser().absolute())
    try:
        backend = check(options.backend, options.replicas, options.servers)
        _check_disk(home)
        home.prepare()
        pid_file = PidFile(home.pid)
        if other := pid_file.take():
            pid_file.close()
            options.say(
                f"already running, pid {other}: `millrace open` shows its page" if other > 0 else "already starting"
            )
            return 0
        ports = bind(options.port_base, options.replicas)
    except UpFailed as error:
        options.say(error.text())
        return 1
    except OSError as error:
        options.say(UpFailed(f"{home.root} cannot be used: {error.strerror or error}").text())
        return 1
    if options.detach:
        return detached(
            pid_file, home.log("supervisor"), lambda report: _serve(options, backend, home, ports, pid_file, report)
        )
    return _serve(options, backend, home, ports, pid_file, lambda: None)


def _serve(
    options: UpOptions, backend: str, home: Home, ports: Ports, pid_file: PidFile, report: Callable[[], None]
) -> int:
    """`report` is called once all serve: the terminal's part is over then, when detached."""
    from millrace.laptop.supervisor import Supervisor, default_modules

    on_terminal = [True]

    def tell(text: str) -> None:
        append_line(home.log("supervisor"), text)
        if on_terminal[0]:
            options.say(text)

    def serving(endpoints: Endpoints) -> None:
        append_line(home.log("supervisor"), f"serving, pid {endpoints.pid}")
        if options.on_serving is not None:
            options.on_serving(endpoints)
        on_terminal[0] = not options.detach
        report()

    server: Backing | None = None

    async def run(env: Mapping[str, str]) -> None:
        modules = options.modules or default_modules()
        supervisor = Supervisor(home, ports, modules, tell, replicas=options.replicas, storage_env=env, server=server)
        await supervisor.run(options.on_ready, serving)

    try:
        env = {
            "MILLRACE_STORAGE_BACKEND": backend,
            "MILLRACE_STORAGE_ARCHIVE": os.environ.get("MILLRACE_STORAGE_ARCHIVE") or home.archive,
        }
        if options.servers:
            server = backing(backend, home, tell)
            env |= server.start()
        asyncio.run(run(env))
    except UpFailed as error:
        tell(error.text())
        return 1
    except MillraceError as error:
        tell(UpFailed(error.message, hint=error.hint).text())
        return 1
    except Exception as error:
        append_line(home.log("supervisor"), traceback.format_exc())
        tell(UpFailed(f"{type(error).__name__}: {error}", log=str(home.log("supervisor"))).text())
        return 1
    finally:
        if server is not None:
            server.stop()
        home.endpoints.unlink(missing_ok=True)
        ports.close()
        pid_file.release()
    return 0


def _check_disk(home: Home) -> None:
    """A full disk is told before anything is half started. Raises UpFailed."""
    place = home.root
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < MIN_FREE_BYTES or not os.access(place, os.W_OK):
        what = "is not writable" if free >= MIN_FREE_BYTES else f"has {free >> 20} MB left on its disk"
        raise UpFailed(f"{place} {what}", hint="free some room, or choose another folder with MILLRACE_HOME")
