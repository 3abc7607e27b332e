"""`millrace load`: a file into a table.

The rows go straight to storage by the client's exactly-once append, not through extract: extract reads only below its
own roots, and the file lies where the command runs, perhaps on another machine. The writer's name is the content's hash, so
a load that broke off goes on where it was, and one that ended is not done twice.
"""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

import click
import pyarrow as pa

from millrace.arrow.names import name_of
from millrace.cli.failures import Failed
from millrace.cli.files import FORMATS, Layout, Rows, content_mark, infer
from millrace.cli.grid import counted
from millrace.cli.kinds import get_table, short_name
from millrace.cli.options import Command, Settings, pass_settings
from millrace.cli.progress import Reporter
from millrace.cli.running import with_session
from millrace.cli.session import Session
from millrace.cli.terminal import note
from millrace.client.append import Appender, AppendOptions
from millrace.client.resources import new_request_id
from millrace.errors import TableNotFound
from millrace.storage.v1 import storage_pb2
from millrace.wire.schema import schema_to_proto


@click.command(cls=Command)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "-t", "--table", required=True, metavar="TABLE", help="Where the rows go; created when it does not exist."
)
@click.option("--format", "format_", type=click.Choice(FORMATS), help="When the file's name does not say.")
@click.option("--delimiter", metavar="CHAR", help="Of a CSV file (default: comma; tab for .tsv).")
@click.option(
    "--null",
    "nulls",
    multiple=True,
    metavar="TEXT",
    help="What means NULL in a CSV file (default: nothing at all). Repeatable.",
)
@click.option("--event-time", metavar="COLUMN", default="", help="Event-time column, when the table is created.")
@click.option(
    "--key", "keys", multiple=True, metavar="COLUMN", help="Primary key, when the table is created. Repeatable."
)
@click.option(
    "--bad-rows",
    type=click.Choice(["fail", "dead-letter"]),
    default="fail",
    show_default=True,
    help="What happens to rows that break the table's contract.",
)
@click.option("--evolve", is_flag=True, help="Add the columns to the table that the file has and the table lacks.")
@click.option("--again", is_flag=True, help="Append the file once more although it was loaded before.")
@pass_settings
def command(
    settings: Settings, file: Path, table: str, format_: str | None, delimiter: str | None, nulls: tuple[str, ...],
    event_time: str, keys: tuple[str, ...], bad_rows: str, evolve: bool, again: bool,
) -> None:  # fmt: skip
    """Append a CSV, JSON lines or Parquet file to a table, exactly once.

    The rows go straight to storage, so the file may lie on any machine (extract reads only below its own folders). A load that was
    interrupted goes on where it stopped when it is called again; one that ended is not repeated.
    """
    layout = Layout.of(file, format_, delimiter, nulls)
    full = settings.full("tables", table)
    writer = f"load/{content_mark(file)}" + (f"/{uuid.uuid4().hex[:8]}" if again else "")

    async def work(session: Session) -> None:
        target = await _table(session, full, layout, event_time, keys)
        options = AppendOptions(
            table=full, table_uid=target.uid, writer_id=writer, dead_letter=bad_rows == "dead-letter"
        )
        await _load(session, layout, options, evolve=evolve)

    with_session(settings, work)


async def _table(
    session: Session, full: str, layout: Layout, event_time: str, keys: tuple[str, ...]
) -> storage_pb2.Table:
    try:
        return await get_table(session, full)
    except TableNotFound:
        schema = await asyncio.to_thread(infer, layout)
    wanted = storage_pb2.Table(
        name=full, schema=schema_to_proto(schema), event_time_column=event_time, primary_key=keys
    )
    request = storage_pb2.CreateTableRequest(request_id=new_request_id(), table=wanted)
    answer = await session.call(
        "storage", session.tables.CreateTable, request, storage_pb2.CreateTableResponse, resource=full
    )
    note(f"table {short_name(full)} created with {len(schema)} columns")
    return answer.table


async def _load(session: Session, layout: Layout, options: AppendOptions, *, evolve: bool) -> None:
    name = short_name(options.table)
    with Reporter() as reporter:
        task = reporter.start(name)
        async with Appender(session.connection("storage"), options) as writer:
            if evolve:
                await _adopt(writer, layout, name)
            rows = Rows(layout, writer.schema)
            known = writer.opened.next_offset
            seen = await _append(
                writer, rows, known, lambda: reporter.update(task, writer.acked_offset - known, rows.fraction)
            )
            await writer.finish()
        totals = writer.totals
        task.done = totals.rows_written
        said = reporter.finish(task)
    _say(name, totals.rows_dead_lettered, said, known, seen)


async def _adopt(writer: Appender, layout: Layout, name: str) -> None:
    """The file's columns that the table lacks, by what the file's beginning shows."""
    found = await asyncio.to_thread(infer, layout)
    if new := [column for column in found if column.name not in writer.schema.names]:
        await writer.change_schema(additions=new)
        note(f"table {name} gained {', '.join(f'{column.name} {name_of(column.type)}' for column in new)}")


def _say(name: str, dead: int, said: str, known: int, seen: int) -> None:
    if known and known >= seen:
        note(f"{name}: these {seen:,} rows were loaded before; --again appends them once more")
        return
    before = f", {known:,} were there already" if known else ""
    refused = f", {counted(dead, 'dead letters')}" if dead else ""
    note(f"{name}: {said}{refused}{before}")
    if dead:
        note(f"`millrace dead-letters {name}` shows them")


async def _append(writer: Appender, rows: Rows, known: int, tell: object) -> int:
    """Appends what lies behind the first `known` rows; returns how many rows the file has."""
    assert callable(tell)
    seen = 0
    batches = iter(rows)
    while (batch := await asyncio.to_thread(_next, batches)) is not None:
        skip = min(max(known - seen, 0), batch.num_rows)
        seen += batch.num_rows
        if skip < batch.num_rows:
            await writer.append(batch.slice(skip))
        tell()
    if seen < known:
        raise Failed(
            f"{known:,} rows of this content are stored, the file has {seen:,}",
            reason="OFFSET_OVERLAP",
            hint="it was loaded with other options before; --again starts anew",
        )
    return seen


def _next(batches: object) -> pa.RecordBatch | None:
    return next(batches, None)  # type: ignore[call-overload]
