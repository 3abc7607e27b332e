"""`millrace dead-letters`: the rows that broke a table's contract, with their raw text."""

from __future__ import annotations

import click

from millrace.analysis.v1 import analysis_pb2, query_pb2
from millrace.cli.asking import ask
from millrace.cli.kinds import get_table
from millrace.cli.options import Command, Settings, pass_settings
from millrace.cli.running import with_session
from millrace.cli.session import Session
from millrace.cli.writers import FORMATS, writer_for

_ROWS = """
SELECT reason, field, raw, writer, "offset", time
FROM {table} ORDER BY time DESC, "offset" DESC LIMIT {limit}
"""
_REASONS = """
SELECT reason, field, count(*) AS rows, max(time) AS newest
FROM {table} GROUP BY reason, field ORDER BY rows DESC, reason, field
"""


@click.command(cls=Command)
@click.argument("table")
@click.option("--by-reason", is_flag=True, help="Count them by reason and column.")
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=100, show_default=True, help="The newest so many.")
@click.option("-o", "--output", type=click.Choice(FORMATS), default="table", show_default=True)
@pass_settings
def command(settings: Settings, table: str, by_reason: bool, limit: int, output: str) -> None:
    """Show the rows that broke a table's contract.

    Why each was refused, and its raw text. They are the table T$dead_letters: `millrace query` reads all of it.
    """
    writer = writer_for(output)
    name = settings.full("tables", table)
    quoted = _quoted(name)
    sql = (_REASONS if by_reason else _ROWS).format(table=quoted, limit=limit)
    request = analysis_pb2.QueryRequest(sql=query_pb2.SqlQuery(text=sql), max_rows=limit)

    async def work(session: Session) -> None:
        await get_table(session, name)  # its own error for a mistyped name
        await ask(session, request, writer, text_column="" if by_reason else "raw")

    with_session(settings, work)


def _quoted(name: str) -> str:
    """`namespaces/n/tables/t` as SQL names its dead letters."""
    _, namespace, _, table = name.split("/")
    return f'"{namespace}"."{table}$dead_letters"'
