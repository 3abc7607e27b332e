"""`millrace query`: one SELECT, its rows streamed to stdout."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from millrace.analysis.v1 import analysis_pb2, query_pb2
from millrace.cli.asking import ask
from millrace.cli.options import Command, Settings, pass_settings
from millrace.cli.parameters import params_of, versions_of
from millrace.cli.running import with_session
from millrace.cli.writers import FORMATS, writer_for
from millrace.pipeline.order import tables_of


@click.command(cls=Command)
@click.argument("sql", required=False)
@click.option(
    "-f",
    "--file",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
    help="Read the SELECT from a file; - is stdin.",
)
@click.option("-o", "--output", type=click.Choice(FORMATS), default="table", show_default=True)
@click.option(
    "--param",
    "params",
    multiple=True,
    metavar="NAME=VALUE",
    help="A value for $NAME; NAME:TYPE=VALUE says its type. Repeatable.",
)
@click.option(
    "--version", "versions", multiple=True, metavar="[TABLE=]N", help="Read a table as it was at version N. Repeatable."
)
@click.option(
    "--max-rows", type=click.IntRange(min=1), default=1_000_000, show_default=True, help="Cut a longer result."
)
@pass_settings
def command(
    settings: Settings, sql: str | None, file: Path | None, output: str,
    params: tuple[str, ...], versions: tuple[str, ...], max_rows: int,
) -> None:  # fmt: skip
    """Ask one SELECT.

    DuckDB's dialect over Millrace's tables by name. T$dead_letters are a table's refused rows, T$all has storage's own
    columns too.

    \b
    millrace query "SELECT origin, count(*) AS flights FROM departures GROUP BY origin"
    millrace query -f delays.sql --param day:date=2013-07-08 -o csv > delays.csv
    """
    text = _text(sql, file)
    question = query_pb2.SqlQuery(text=text, params=params_of(params))
    request = analysis_pb2.QueryRequest(sql=question, versions=_pinned(settings, text, versions), max_rows=max_rows)
    writer = writer_for(output)
    with_session(settings, lambda session: ask(session, request, writer))


def _text(sql: str | None, file: Path | None) -> str:
    if (sql is None) == (file is None):
        raise click.UsageError('one SELECT is needed\nmillrace query "SELECT …", or -f FILE')
    if file is None:
        return sql or ""
    return sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")


def _pinned(settings: Settings, sql: str, texts: tuple[str, ...]) -> dict[str, int]:
    versions = dict(versions_of(settings, texts))
    if "" in versions:
        tables = tables_of(sql, settings.namespace)
        if len(tables) != 1:
            raise click.UsageError(f"--version {versions['']} of which table?\nwrite --version TABLE={versions['']}")
        versions[settings.full("tables", tables.pop())] = versions.pop("")
    return versions
