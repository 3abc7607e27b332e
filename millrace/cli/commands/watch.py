"""`millrace watch`: a table's versions as they land."""

from __future__ import annotations

import json
import sys
from contextlib import aclosing

import click

from millrace.cli.grid import counted
from millrace.cli.kinds import short_name
from millrace.cli.options import Command, Settings, pass_settings
from millrace.cli.running import with_session
from millrace.cli.session import Session
from millrace.cli.terminal import colour, note, paint
from millrace.client.watch import watch_table
from millrace.storage.v1 import storage_pb2
from millrace.types.v1 import types_pb2


@click.command(cls=Command)
@click.argument("table")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="json: one object a line.",
)
@click.option(
    "--after",
    type=click.IntRange(min=0),
    metavar="VERSION",
    help="Begin behind this version (default: with the current one).",
)
@click.option(
    "--all", "all_kinds", is_flag=True, help="Show versions without new rows too: compaction, new epochs, columns."
)
@click.option("--count", "limit", type=click.IntRange(min=1), metavar="N", help="Stop after so many versions.")
@pass_settings
def command(settings: Settings, table: str, output: str, after: int | None, all_kinds: bool, limit: int | None) -> None:
    """Follow a table's versions as they land.

    Goes on across restarts of storage without losing one, until Ctrl-C.
    """
    name = settings.full("tables", table)
    request = storage_pb2.WatchTableRequest(table=name, after_version=after, data_changes_only=not all_kinds)

    async def work(session: Session) -> None:
        left = limit
        async with aclosing(watch_table(session.connection("storage"), request)) as changes:
            async for change in changes:
                if isinstance(change, storage_pb2.TableDeleted):
                    note(f"table {table} was deleted", "yellow")
                    return
                if isinstance(change, storage_pb2.TableVersion):
                    print(_json(name, change) if output == "json" else _line(change), flush=True)
                    left = None if left is None else left - 1
                if left == 0:
                    return

    with_session(settings, work)


def _kind(version: storage_pb2.TableVersion) -> str:
    return storage_pb2.VersionKind.Name(version.kind).removeprefix("VERSION_KIND_").lower()


def _line(version: storage_pb2.TableVersion) -> str:
    number = f"{version.number}" if version.first in (version.number, 0) else f"{version.first}–{version.number}"
    dead = f"  {counted(version.rows_dead_lettered, 'dead letters')}" if version.rows_dead_lettered else ""
    removed = f"  -{version.rows_removed:,} rows" if version.rows_removed else ""
    time = version.commit_time.ToDatetime().strftime("%H:%M:%S.%f")[:-3] + "Z"
    rows = paint(f"+{counted(version.rows_added, 'rows')}", "green", colour(sys.stdout))
    return f"{time}  version {number:<9} {_kind(version):<8} {rows}{removed}{dead}"


def _json(table: str, version: storage_pb2.TableVersion) -> str:
    high = [p.event_time_high for p in version.positions.values() if p.HasField("event_time_high")]
    said = {
        "table": short_name(table),
        "version": version.number,
        "first": version.first,
        "kind": _kind(version),
        "rows_added": version.rows_added,
        "rows_removed": version.rows_removed,
        "rows_dead_lettered": version.rows_dead_lettered,
        "commit_time": version.commit_time.ToJsonString(),
        "positions": {writer: _positions(position) for writer, position in sorted(version.positions.items())},
        "event_time_high": max(high, key=lambda time: time.ToNanoseconds()).ToJsonString() if high else None,
    }
    return json.dumps(said, ensure_ascii=False)


def _positions(position: types_pb2.Position) -> dict[str, str]:
    return dict(position.positions)
