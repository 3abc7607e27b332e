"""`millrace up`: the supervisor in the foreground (or detached), the demo, and where to go from there.

Nothing here may import grpc before the supervisor has forked: what the demo needs is imported when it runs.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path

import click

from millrace.cli.options import Command, Settings, pass_settings
from millrace.cli.terminal import colour, note, paint
from millrace.laptop.backing import BACKENDS, SHARED, check
from millrace.laptop.down import running_pid
from millrace.laptop.failure import UpFailed
from millrace.laptop.home import AREAS, Endpoints, Home
from millrace.laptop.ports import MAX_REPLICAS, PORT_BASE
from millrace.laptop.up import UpOptions, up

_TRY_DEMO = (
    'query "SELECT status, count(*) AS flights FROM departures GROUP BY status"',
    "watch departures",
    "dead-letters flights --by-reason",
)
_TRY_EMPTY = ("load FILE.csv --table NAME", "apply PIPELINE.yaml", "status")


@click.command(cls=Command)
@click.option(
    "--port-base",
    type=click.IntRange(0, 65530),
    default=PORT_BASE,
    show_default=True,
    metavar="N",
    help="Port of the page; the services take the five behind it. 0 takes any.",
)
@click.option("--detach", is_flag=True, help="Return once all serve and the demo is loaded.")
@click.option(
    "--replicas",
    type=click.IntRange(1, MAX_REPLICAS),
    default=1,
    show_default=True,
    metavar="N",
    help="Processes per service; more than one needs --backend s3 or cassandra.",
)
@click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    default=None,
    help="Where storage keeps tables; without it as MILLRACE_STORAGE_BACKEND says, or local.",
)
@click.option(
    "--servers", is_flag=True, help="Start an S3 server or a Cassandra node too, its data in the home folder."
)
@click.option("--no-demo", is_flag=True, help="Start with nothing in it.")
@click.option("--fresh-demo", is_flag=True, help="Delete the demo's tables first: its year begins again.")
@pass_settings
@click.pass_context
def command(
    ctx: click.Context,
    settings: Settings,
    port_base: int,
    detach: bool,
    replicas: int,
    backend: str | None,
    servers: bool,
    no_demo: bool,
    fresh_demo: bool,
) -> None:
    """Start the five services and the demo.

    Stays in the foreground; Ctrl-C drains and stops. Data, tokens and logs stay in the home folder, so the next start goes on
    where this one ended.
    """
    if no_demo and fresh_demo:
        raise click.UsageError("--no-demo and --fresh-demo exclude each other")
    settings.home = settings.home.expanduser().absolute()

    shown: list[bool] = []
    lines: list[asyncio.Task[None]] = []  # asyncio keeps no task alive by itself

    async def on_ready(endpoints: Endpoints) -> None:
        each = f", {replicas} replicas each" if replicas > 1 else ""
        note(f"all {len(endpoints.services)} services serve{each}", "green")
        if not no_demo:
            shown.append(await _demo(settings, fresh_demo))

    def on_serving(endpoints: Endpoints) -> None:
        print(
            _banner(endpoints, settings, _data(meant, settings.home, servers), detach=detach, demo=any(shown)),
            flush=True,
        )
        if not detach:
            lines.append(asyncio.get_running_loop().create_task(_beat(settings), name="status lines"))

    try:
        meant = check(backend or "", replicas, servers)
    except UpFailed as error:
        note(error.text())
        ctx.exit(1)
    if running_pid(settings.home) <= 0:
        note(f"starting the five services in {settings.home}")
    ctx.exit(
        up(
            UpOptions(
                home=settings.home,
                port_base=port_base,
                detach=detach,
                replicas=replicas,
                backend=backend or "",
                servers=servers,
                on_ready=on_ready,
                on_serving=on_serving,
                say=note,
            )
        )
    )


async def _demo(settings: Settings, fresh: bool) -> bool:
    """Whether the demo is there. One that cannot be laid out is told, and stops nothing."""
    from millrace.cli.demo import DemoFailed, run_demo
    from millrace.cli.failures import explain
    from millrace.errors import MillraceError

    try:
        await run_demo(settings, fresh=fresh)
        return True
    except DemoFailed as error:
        note(f"demo: {error}", "yellow")
        note("hint: the services run without it; the next `millrace up` tries again")
    except MillraceError as error:
        message, reason, hint = explain(error)
        note(f"demo: {message} [{reason}]; the services run on", "yellow")
        note(f"hint: {hint}")
    except asyncio.CancelledError:
        note("demo: left where it was; the next start goes on")
        raise
    return False


async def _beat(settings: Settings) -> None:
    from millrace.cli.pulse import beat

    await beat(settings)


def _data(backend: str, home: Path, servers: bool) -> str:
    """Where the tables lie: words for the banner."""
    if backend in SHARED:
        return f"{backend}, in {home / 'servers'}" if servers else backend
    return str(Home(home).data) if backend == "local" else backend


def _banner(endpoints: Endpoints, settings: Settings, data: str, *, detach: bool, demo: bool) -> str:
    coloured = colour(sys.stdout)
    name = _command_name()
    home = "" if settings.home == (Path.cwd() / ".millrace").absolute() else f" --home {settings.home}"
    lines = [
        "",
        paint("Millrace is up", "bold", coloured),
        "",
        f"  {'page':<10} {paint(endpoints.url, 'cyan', coloured)}",
    ]
    lines += [f"  {area:<10} {_where(endpoints, area)}" for area in AREAS if area in endpoints.services]
    lines += [f"  {'data':<10} {data}", "", "Try next:"]
    lines += [f"  {name} {words}{home}" for words in (_TRY_DEMO if demo else _TRY_EMPTY)]
    return "\n".join([*lines, "", f"{name} down{home} stops it." if detach else "Ctrl-C drains and stops.", ""])


def _where(endpoints: Endpoints, area: str) -> str:
    return " ".join(endpoints.replicas.get(area) or [endpoints.services[area]])


def _command_name() -> str:
    """How this command is called here: bare when it is on the PATH, else by its path."""
    own = Path(sys.argv[0]).absolute()
    found = shutil.which("millrace")
    if found is not None and Path(found).absolute() == own:
        return "millrace"
    if own.name != "millrace":
        return "millrace"
    return str(own.relative_to(Path.cwd())) if own.is_relative_to(Path.cwd()) else str(own)
