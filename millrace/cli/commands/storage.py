"""`millrace storage`: what keeps tables small, true and lawful."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

import click

from millrace.cli import maintenance as shown
from millrace.cli.kinds import KINDS, get_table
from millrace.cli.options import Command, CommonOptions, Settings, pass_settings
from millrace.cli.running import with_session
from millrace.cli.session import Session
from millrace.cli.terminal import note
from millrace.client import maintenance
from millrace.client.resources import new_request_id
from millrace.storage.v1 import maintenance_pb2 as pb

F = TypeVar("F", bound=Callable[..., object])


class Group(CommonOptions, click.Group):
    """Commands over one table."""


@click.group(cls=Group)
def command() -> None:
    """Keep tables small, true and lawful: compact, expire, restore, erase, check, export, import.

    Each is a run that storage carries out: Ctrl-C leaves it at work, --run-id attaches to it again, `millrace storage
    runs` lists all.
    """


def output(function: F) -> F:
    chosen = click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
    return chosen(function)


def run_id(function: F) -> F:
    named = click.option(
        "--run-id", default="", metavar="ID", help="The run's id; the id of an earlier run attaches to it."
    )
    return named(function)


def yes(function: F) -> F:
    return click.option("-y", "--yes", is_flag=True, help="Do not ask first.")(function)


def _run(settings: Settings, request: maintenance.Request, label: str, form: str) -> None:
    async def work(session: Session) -> None:
        shown.show(await shown.watched(session, request, label), form)

    with_session(settings, work)


@command.command(cls=Command)
@click.argument("table")
@run_id
@output
@pass_settings
def compact(settings: Settings, table: str, run_id: str, output: str) -> None:
    """Make few large files of many small ones now."""
    request = pb.CompactTableRequest(table=settings.full("tables", table), request_id=run_id or new_request_id())
    _run(settings, request, "compact", output)


@command.command(cls=Command)
@click.argument("table")
@click.option("--older-than", metavar="TIME", help="Versions that were replaced before: 7d, or an ISO 8601 time.")
@click.option("--keep", type=click.IntRange(1), default=0, metavar="N", help="All but the newest N versions.")
@click.option(
    "--break-reader",
    "readers",
    multiple=True,
    metavar="READER",
    help="Do not wait for this named reader; it does a full read next. Repeatable.",
)
@yes
@run_id
@output
@pass_settings
def expire(
    settings: Settings,
    table: str,
    older_than: str | None,
    keep: int,
    readers: tuple[str, ...],
    yes: bool,
    run_id: str,
    output: str,
) -> None:
    """End older versions before retention does.

    Named readers are waited for; their bytes go a day later.
    """
    if older_than is None and not keep:
        raise click.UsageError("which versions?\nsay --older-than 7d, or --keep 10")
    request = pb.ExpireVersionsRequest(
        table=settings.full("tables", table),
        request_id=run_id or new_request_id(),
        keep_versions=keep,
        break_readers=[settings.full("readers", reader) for reader in readers],
    )
    if older_than is not None:
        request.older_than.FromDatetime(shown.moment_of(older_than))
    shown.confirmed(f"End older versions of {table} for good?", yes=yes)
    _run(settings, request, "expire", output)


@command.command(cls=Command)
@click.argument("table")
@click.option("--version", type=click.IntRange(0), metavar="N", help="The version whose rows come back.")
@click.option("--as-of", metavar="TIME", help="The newest version at a time: 2h (ago), or an ISO 8601 time.")
@yes
@run_id
@output
@pass_settings
def restore(
    settings: Settings, table: str, version: int | None, as_of: str | None, yes: bool, run_id: str, output: str
) -> None:
    """Make an older version's rows the newest version's.

    Writers keep their offsets: what they sent is not sent again.
    """
    if (version is None) == (as_of is None):
        raise click.UsageError("which state?\nsay --version N, or --as-of TIME")
    request = pb.RestoreTableRequest(table=settings.full("tables", table), request_id=run_id or new_request_id())
    if version is not None:
        request.version = version
    elif as_of is not None:
        request.as_of.FromDatetime(shown.moment_of(as_of))
    shown.confirmed(f"Replace the rows of {table} by older ones?", yes=yes)
    _run(settings, request, "restore", output)


@command.command(cls=Command)
@click.argument("table")
@click.option("--key", "keys", multiple=True, metavar="VALUE", help="A primary key: `a,b` for two columns. Repeatable.")
@click.option(
    "--where", "conditions", multiple=True, metavar="CONDITION", help="column=value, <, <=, >, >=, !=; all must hold."
)
@click.option("--keep-derived", is_flag=True, help="Leave what transforms make from it as it is.")
@click.option("--erase-unjudged", is_flag=True, help="Erase dead letters that cannot be judged, too.")
@click.option("--grace", metavar="TIME", help="How long reads that are under way may go on (15m).")
@yes
@run_id
@output
@pass_settings
def erase(
    settings: Settings,
    table: str,
    keys: tuple[str, ...],
    conditions: tuple[str, ...],
    keep_derived: bool,
    erase_unjudged: bool,
    grace: str | None,
    yes: bool,
    run_id: str,
    output: str,
) -> None:
    """Take rows out for good: table, dead letters, older versions, and what transforms make from it.

    The report says, per table, what was erased and when the bytes are gone.
    """
    if bool(keys) == bool(conditions):
        raise click.UsageError("which rows?\nsay --key VALUE, or --where 'column=value'")
    request = pb.EraseRowsRequest(
        table=settings.full("tables", table),
        request_id=run_id or new_request_id(),
        keep_derived=keep_derived,
        erase_unjudged=erase_unjudged,
    )
    if grace is not None:
        request.grace.FromTimedelta(shown.span_of(grace))

    async def work(session: Session) -> None:
        found = await get_table(session, request.table)
        if keys:
            request.keys.CopyFrom(shown.keys_of(keys, found))
        else:
            request.predicate.CopyFrom(shown.condition_of(conditions, found))
        shown.confirmed(f"Erase these rows of {table}, and all older versions?", yes=yes)
        shown.show(await shown.watched(session, request, "erase"), output)

    with_session(settings, work)


@command.command(cls=Command)
@click.argument("table")
@click.argument("destination")
@click.option("--version", type=click.IntRange(0), metavar="N", help="The version to export; without it, the newest.")
@run_id
@output
@pass_settings
def export(settings: Settings, table: str, destination: str, version: int | None, run_id: str, output: str) -> None:
    """Write a version into the folder DESTINATION of storage's archive.

    Rows with their checksums, the definition, writers' offsets, dead letters. One that was broken off goes on when it is
    asked again.
    """
    request = pb.ExportTableRequest(
        table=settings.full("tables", table), request_id=run_id or new_request_id(), destination=destination
    )
    if version is not None:
        request.version = version
    _run(settings, request, "export", output)


@command.command("import", cls=Command)
@click.argument("source")
@click.argument("table")
@run_id
@output
@pass_settings
def import_(settings: Settings, source: str, table: str, run_id: str, output: str) -> None:
    """Make TABLE from the export in the folder SOURCE of storage's archive.

    It must not exist yet, and appears when all of it is there; writers go on at their offsets.
    """
    request = pb.ImportTableRequest(
        table=settings.full("tables", table), request_id=run_id or new_request_id(), source=source
    )
    _run(settings, request, "import", output)


@command.command(cls=Command)
@click.argument("table")
@output
@pass_settings
def writers(settings: Settings, table: str, output: str) -> None:
    """List who appends to a table, and how far each got (* streams now)."""

    async def work(session: Session) -> None:
        name = settings.full("tables", table)
        shown.show_writers(await maintenance.list_writers(session.connection("storage"), name), output)

    with_session(settings, work)


@command.command("delete-writer", cls=Command)
@click.argument("table")
@click.argument("writer")
@yes
@pass_settings
def delete_writer(settings: Settings, table: str, writer: str, yes: bool) -> None:
    """Forget a writer: its position and owner go, its epoch is used up."""
    shown.confirmed(f"Forget the writer {writer} of {table}?", yes=yes)

    async def work(session: Session) -> None:
        name = settings.full("tables", table)
        epoch = await maintenance.delete_writer(session.connection("storage"), name, writer)
        note(f"writer {writer} is forgotten; its epochs up to {epoch} are used up")

    with_session(settings, work)


@command.command(cls=Command)
@click.argument("table", required=False)
@click.option(
    "--sample", type=click.FloatRange(0, 1, min_open=True), default=1.0, help="Share of the files whose rows are read."
)
@click.option("--repair", is_flag=True, help="Remove files that no version ever named, once they are an hour old.")
@output
@pass_settings
def fsck(settings: Settings, table: str | None, sample: float, repair: bool, output: str) -> None:
    """Compare all that a table is made of with its log; without TABLE, every table.

    Exit code 1 when something is not as it should be; each fault is named.
    """

    async def work(session: Session) -> bool:
        names = [settings.full("tables", table)] if table else [t.name for t in await KINDS["tables"].listed(session)]
        return all([await _check(session, name, sample, repair, output) for name in names])

    if not with_session(settings, work):
        sys.exit(1)


async def _check(session: Session, name: str, sample: float, repair: bool, form: str) -> bool:
    request = pb.CheckTableRequest(table=name, request_id=new_request_id(), sample=sample, repair=repair)
    done = await shown.watched(session, request, "check")
    if form == "json":
        shown.show_check(done)
    else:
        sound = "sound" if done.report.verified else "DAMAGED"
        sys.stdout.write(f"{name}: {sound}; {'; '.join(done.report.notes)}\n")
        sys.stdout.writelines(f"  {shown.fault_line(fault)}\n" for fault in done.faults)
    return done.report.verified


@command.command(cls=Command)
@click.argument("table", required=False)
@click.option("--cancel", metavar="RUN", help="Ask this run to end at its next step.")
@output
@pass_settings
def runs(settings: Settings, table: str | None, cancel: str | None, output: str) -> None:
    """List storage's runs, newest first."""

    async def work(session: Session) -> None:
        storage = session.connection("storage")
        if cancel is not None:
            run = await maintenance.cancel_run(storage, settings.full("runs", cancel))
            shown.show_runs([run], output)
            return
        name = settings.full("tables", table) if table else ""
        shown.show_runs(await maintenance.list_runs(storage, settings.parent, table=name), output)

    with_session(settings, work)
