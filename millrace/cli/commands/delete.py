"""`millrace delete`: one thing, or a pipeline with its parts. Rows go only with an express word."""

from __future__ import annotations

import sys

import click

from millrace.cli.kinds import Kind, KindType
from millrace.cli.options import Command, Settings, pass_settings
from millrace.cli.removing import delete_parts
from millrace.cli.running import with_session
from millrace.cli.session import Session
from millrace.cli.terminal import note


@click.command(cls=Command)
@click.argument("kind", type=KindType(deletable=True))
@click.argument("name")
@click.option("--with-tables", is_flag=True, help="With a pipeline: delete its tables too, rows and all.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask before rows are deleted.")
@pass_settings
def command(settings: Settings, kind: Kind, name: str, with_tables: bool, yes: bool) -> None:
    """Delete a table, source, transform, dashboard or pipeline.

    A pipeline goes with its sources, transforms and dashboards; its tables stay unless --with-tables. The files of a
    deleted table go 24 hours later.
    """
    if with_tables and kind.collection != "pipelines":
        raise click.UsageError("--with-tables goes with a pipeline\n`millrace delete table NAME` deletes one table")
    rows = with_tables or kind.collection == "tables"
    what = f"the tables of pipeline {name}" if with_tables else f"table {name}"
    unasked = rows and not yes
    if unasked and sys.stdin.isatty():
        click.confirm(f"Delete {what} with all rows?", abort=True, err=True)
        unasked = False
    full = settings.full(kind.collection, name)

    async def work(session: Session) -> None:
        assert kind.delete is not None
        await kind.get(session, full)  # so that a mistyped name is an error, not a success
        if unasked:
            raise click.UsageError(
                f"{what} would go with all rows, and nobody can be asked here\n`--yes` says that it is meant"
            )
        if kind.collection == "pipelines":
            await delete_parts(session, full, with_tables=with_tables)
        await kind.delete(session, full)
        note(f"{kind.singular} {name} deleted")

    with_session(settings, work)
