"""`millrace lookup`: rows by primary key."""

from __future__ import annotations

import csv
from collections.abc import Iterable

import click
import pyarrow as pa

from millrace.cli.grid import counted
from millrace.cli.kinds import short_name
from millrace.cli.options import Command, Settings, pass_settings
from millrace.cli.running import with_session
from millrace.cli.session import Session
from millrace.cli.terminal import note
from millrace.cli.writers import FORMATS, writer_for
from millrace.client.lookup import LOOKUP_DEADLINE_S, Found, key_columns, lookup


@click.command(cls=Command)
@click.argument("table")
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@click.option("--columns", help="Only these, separated by commas.")
@click.option("--version", type=click.IntRange(0), help="At this version; else the newest.")
@click.option("-o", "--output", type=click.Choice(FORMATS), default="table", show_default=True)
@pass_settings
def command(
    settings: Settings, table: str, keys: tuple[str, ...], columns: str | None, version: int | None, output: str
) -> None:
    """Show the rows of some primary keys.

    A KEY is the values of the key's columns in the key's order, separated by commas. A key that is not there is said, and the
    command ends with 1 when none is.

    \b
    millrace lookup orders 1001 1002
    millrace lookup prices ACME,2024-02-29 --columns close
    """
    writer = writer_for(output)
    name = settings.full("tables", table)

    async def work(session: Session) -> Found:
        connection = session.connection("storage")
        key = await key_columns(connection, name)
        return await lookup(
            connection,
            name,
            key,
            keys_of(keys, key.schema),
            columns=columns.split(",") if columns else (),
            version=version,
            deadline_s=settings.timeout_s or LOOKUP_DEADLINE_S,
        )

    found = with_session(settings, work)
    writer.begin(found.rows.schema)
    for batch in found.rows.to_batches():
        writer.write(batch)
    writer.end()
    note(f"{counted(len(found), 'rows')} · {short_name(name)}@{found.version}", "dim")
    for text, there in zip(keys, found.found, strict=True):
        if not there:
            note(f"there is no {text}", "yellow")
    if not any(found.found):
        raise SystemExit(1)


def keys_of(texts: Iterable[str], schema: pa.Schema) -> pa.Table:
    """Keys as people write them. Raises UsageError naming the one that is none."""
    lines = [next(csv.reader([text]), [""]) if len(schema) > 1 else [text] for text in texts]
    for text, values in zip(texts, lines, strict=True):
        if len(values) != len(schema):
            raise click.UsageError(f"`{text}` is no key of this table\nwrite {','.join(schema.names)}")
    return pa.Table.from_arrays(
        [_column([values[at] for values in lines], column) for at, column in enumerate(schema)], schema=schema
    )


def _column(texts: list[str], column: pa.Field) -> pa.Array:
    try:
        return pa.array(texts, pa.string()).cast(column.type)
    except pa.ArrowException as error:
        raise click.UsageError(
            f"`{column.name}` is {column.type}: one of {', '.join(texts[:3])} is none\nwrite it as ISO 8601 or as digits"
        ) from error
