"""The short status lines of `millrace up` in the foreground: one every half minute, when there is something new to say."""

from __future__ import annotations

import asyncio
import time
from typing import NoReturn

from millrace import errors
from millrace.cli.grid import counted
from millrace.cli.health import Health, look
from millrace.cli.kinds import short_name, state_cell
from millrace.cli.options import Settings
from millrace.cli.running import within
from millrace.cli.session import Session
from millrace.cli.terminal import escaped, note

EVERY_S = 30.0


async def beat(settings: Settings) -> NoReturn:
    """Until it is cancelled; a look that fails is not told: the supervisor tells what dies."""
    said = ""
    while True:
        await asyncio.sleep(EVERY_S)
        try:
            health = await within(settings, _look)
        except (errors.MillraceError, OSError):
            continue
        if (line := status_line(health)) != said:
            said = line
            note(f"{time.strftime('%H:%M:%S')}  {line}")


async def _look(session: Session) -> Health:
    return await look(session)


def status_line(health: Health) -> str:
    """ "5 services serve · flights running 26/s, 172,766 rows · wrong: …"."""
    serving = sum(service.state == "serving" for service in health.services)
    parts = [f"{counted(serving, 'services')} serve" if serving != 1 else "1 service serves"]
    for source in health.sources:
        if source.spec.continuous:
            rate = f" {source.status.rows_per_second:,.0f}/s" if source.status.rows_per_second else ""
            rows = counted(source.status.progress.rows_written, "rows")
            parts.append(f"{short_name(source.name)} {state_cell(source.status).text}{rate}, {rows}")
    parts += [f"wrong: {problem.subject}: {problem.why}" for problem in health.problems[:2]]
    return escaped(" · ".join(parts))
