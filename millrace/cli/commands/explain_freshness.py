"""`millrace explain-freshness`: which hop holds a table's data up; the verdict first, then every hop and what was seen of it."""

from __future__ import annotations

import json
import sys
from typing import Any

import click
from google.protobuf.json_format import MessageToDict

from millrace.cli.explaining import Explanation, explain
from millrace.cli.grid import Cell, Row, age, grid
from millrace.cli.kinds import short_name
from millrace.cli.options import Command, Settings, pass_settings
from millrace.cli.running import with_session
from millrace.cli.session import Session
from millrace.cli.terminal import colour, escaped, paint
from millrace.storage.v1 import freshness_pb2 as pb

_STYLES = {"ok": "green", "unknown": "yellow", "behind": "yellow", "stalled": "red"}
_HEADS = ("HOP", "NAME", "STATE", "SINCE", "SAYS")


@click.command(cls=Command)
@click.argument("table")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@pass_settings
def command(settings: Settings, table: str, output: str) -> None:
    """Name the hop that holds a table's data up, with the evidence.

    Walks from the table through its transforms to the sources, and on to those who follow it. Ends with 1 when a hop is to blame.

    \b
    millrace explain-freshness flights
    millrace explain-freshness flights -o json
    """
    name = settings.full("tables", table)

    async def work(session: Session) -> Explanation:
        return await explain(session, name)

    found = with_session(settings, work)
    if output == "json":
        print(json.dumps(_plain(name, found), indent=2, ensure_ascii=False))
    else:
        print(text(name, found, coloured=colour(sys.stdout)))
    if found.verdict is not None:
        raise SystemExit(1)


def text(table: str, found: Explanation, *, coloured: bool) -> str:
    """For people."""
    blocks = [_verdict(table, found, coloured)]
    if found.verdict is not None:
        seen = found.verdict.evidence
        width = max((len(one.key) for one in seen), default=0)
        blocks.append("\n".join(f"  {one.key:<{width}}  {escaped(one.value)}" for one in seen))
    if found.hops:
        blocks.append(grid(_HEADS, [_row(hop) for hop in found.hops], colour=coloured))
    if found.told is None:
        blocks.append("storage did not answer: sources, transforms and tables are unknown")
    return "\n\n".join(block for block in blocks if block)


def _verdict(table: str, found: Explanation, coloured: bool) -> str:
    hop = found.verdict
    if hop is None:
        unknown = [one for one in found.hops if one.state == pb.HOP_STATE_UNKNOWN]
        last = age(found.told.commit_time) if found.told is not None else ""
        what = f", newest rows {last} ago" if last else ""
        if unknown:
            return paint(
                f"nothing is known to hold {short_name(table)} up{what}; unknown: {_names(unknown)}", "yellow", coloured
            )
        return paint(f"nothing holds {short_name(table)} up{what}", "green", coloured)
    since = f" since {age(hop.since)}" if hop.HasField("since") else ""
    where = f" (worked on by {hop.replica})" if hop.replica else ""
    lines = [paint(escaped(f"{_cause(hop)}{since}: {hop.summary}{where}"), "red", coloured)]
    if hop.next_step:
        lines.append(f"next: {escaped(hop.next_step)}")
    return "\n".join(lines)


def _names(hops: list[pb.Hop]) -> str:
    return ", ".join(escaped(short_name(hop.name)) for hop in hops)


def _row(hop: pb.Hop) -> Row:
    state = pb.HopState.Name(hop.state).removeprefix("HOP_STATE_").lower()
    kind = pb.HopKind.Name(hop.kind).removeprefix("HOP_KIND_").lower()
    return (kind, short_name(hop.name), Cell(state, _STYLES.get(state, "")), age(hop.since), hop.summary)


def _cause(hop: pb.Hop) -> str:
    return pb.HopCause.Name(hop.cause).removeprefix("HOP_CAUSE_").lower().replace("_", " ")


def _plain(table: str, found: Explanation) -> dict[str, Any]:
    def plain(hop: pb.Hop) -> dict[str, Any]:
        made = dict(MessageToDict(hop, preserving_proto_field_name=True))
        for key, prefix in (("kind", "HOP_KIND_"), ("state", "HOP_STATE_"), ("cause", "HOP_CAUSE_")):
            if key in made:
                made[key] = made[key].removeprefix(prefix)
        made["evidence"] = {one.key: one.value for one in hop.evidence}
        return made

    told = found.told
    return {
        "table": table,
        "version": told.version if told is not None else None,
        "verdict": plain(found.verdict) if found.verdict is not None else None,
        "hops": [plain(hop) for hop in found.hops],
        "storage_answered": told is not None,
    }
