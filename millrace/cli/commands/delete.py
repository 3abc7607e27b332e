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
    if rows and not yes and sys.stdin.isatty():
        what = f"the tables of pipeline {name}" if with_tables else f"table {name}"
        click.confirm(f"Delete {what} with all rows?", abort=True, err=True)
    full = settings.full(kind.collection, name)

    async def work(session: Session) -> None:
        if kind.collection == "pipelines":
            await delete_parts(session, full, with_tables=with_tables)
        assert kind.delete is not None
        await kind.get(session, full)  # so that a mistyped name is an error, not a success
        await kind.delete(session, full)
        note(f"{kind.singular} {name} deleted")

    with_session(settings, work)
