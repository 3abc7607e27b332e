"""`millrace status`: all that there is on one screen, what is wrong last, where the eye stays."""

from __future__ import annotations

import json
import sys
from typing import Any

import click
from google.protobuf.json_format import MessageToDict

from millrace.cli.grid import Cell, Row, age, grid, size
from millrace.cli.health import Health, Service, look
from millrace.cli.kinds import KINDS
from millrace.cli.options import Command, Settings, pass_settings
from millrace.cli.running import with_session
from millrace.cli.session import Session
from millrace.cli.terminal import colour, escaped, note, paint

_STYLES = {"serving": "green", "down": "red", "degraded": "yellow", "starting": "yellow", "draining": "yellow"}
_HEADS = ("SERVICE", "ADDRESS", "STATE", "PID", "UP", "MEMORY", "STREAMS", "LEASES", "SAYS")


@click.command(cls=Command)
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@pass_settings
def command(settings: Settings, output: str) -> None:
    """Show services, sources, transforms and tables, and what is wrong."""

    async def work(session: Session) -> tuple[str, Health]:
        return session.endpoints.url, await look(session)

    url, health = with_session(settings, work)
    if output == "json":
        print(json.dumps(_plain(settings, url, health), indent=2, ensure_ascii=False))
        return
    coloured = colour(sys.stdout)
    print(_text(health, coloured))
    if health.problems:
        width = max(len(problem.subject) for problem in health.problems)
        lines = [f"  {escaped(p.subject):<{width}}  {escaped(p.why)}" for p in health.problems]
        print("\n".join(["", paint("WRONG", "red", coloured), *lines]))
    else:
        note("all well", "green")


def _text(health: Health, coloured: bool) -> str:
    blocks = [grid(_HEADS, [_service_row(service) for service in health.services], colour=coloured)]
    for collection in ("sources", "transforms", "tables"):
        things = getattr(health, collection)
        if things:
            kind = KINDS[collection]
            heads = (kind.singular.upper(), *kind.heads[1:])
            blocks.append(grid(heads, [kind.row(thing) for thing in things], colour=coloured))
    return "\n\n".join(blocks)


def _service_row(service: Service) -> Row:
    state = Cell(service.state, _STYLES.get(service.state, ""))
    said = service.said
    if said is None:
        return (service.name, service.address, state, "", "", "", "", "", service.why)
    names = sorted(lease.name for lease in said.leases)
    committers = sum(
        name.startswith("committers/") for name in names
    )  # named by uid, one per table: nothing to read there
    leases = ", ".join(
        [
            *(name for name in names if not name.startswith("committers/")),
            *([f"commits to {committers}"] if committers else []),
        ]
    )
    streams = str(sum(stream.open for stream in said.streams))
    return (
        service.name, service.address, state, str(said.pid), age(said.start_time),
        size(said.resident_bytes), streams, leases, service.why,
    )  # fmt: skip


def _plain(settings: Settings, url: str, health: Health) -> dict[str, Any]:
    def plain(thing: Any) -> dict[str, Any]:
        return dict(MessageToDict(thing, preserving_proto_field_name=True))

    return {
        "home": str(settings.home),
        "url": url,
        "services": [
            {
                "service": service.area,
                "replica": service.number,
                "address": service.address,
                "state": service.state,
                "reason": service.why,
                **({"status": plain(service.said)} if service.said is not None else {}),
            }
            for service in health.services
        ],
        "sources": [plain(source) for source in health.sources],
        "transforms": [plain(transform) for transform in health.transforms],
        "tables": [plain(table) for table in health.tables],
        "problems": [{"subject": problem.subject, "why": problem.why} for problem in health.problems],
    }
