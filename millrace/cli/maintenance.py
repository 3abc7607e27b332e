"""Runs of storage as the command line shows them: progress, faults and reports."""

from __future__ import annotations

import csv
import datetime as dt
import json
import re
import sys
from collections.abc import Callable, Sequence

import click
import pyarrow as pa
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from millrace.cli.grid import Cell, Row, counted, grid, instant, size
from millrace.cli.kinds import short_name
from millrace.cli.progress import Reporter
from millrace.cli.session import Session
from millrace.cli.terminal import colour, note
from millrace.client.maintenance import Outcome, Request, outcome
from millrace.errors import MillraceError
from millrace.storage.v1 import maintenance_pb2, storage_pb2
from millrace.types.v1 import run_pb2, types_pb2
from millrace.wire.schema import schema_from_proto
from millrace.wire.values import value_to_proto

_SPAN = re.compile(r"(\d+)\s*(s|m|min|h|d|w)")
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}
_CONDITION = re.compile(r"([a-z][a-z0-9_]*)\s*(<=|>=|!=|=|<|>)\s*(.*)", re.DOTALL)
_OPERATORS = {
    "=": types_pb2.COMPARE_OP_EQ,
    "!=": types_pb2.COMPARE_OP_NE,
    "<": types_pb2.COMPARE_OP_LT,
    "<=": types_pb2.COMPARE_OP_LE,
    ">": types_pb2.COMPARE_OP_GT,
    ">=": types_pb2.COMPARE_OP_GE,
}


# -- what the command line says
def span_of(text: str) -> dt.timedelta:
    """ "30d", "12 h", "15min". Raises UsageError."""
    if not (found := _SPAN.fullmatch(text.strip())):
        raise click.UsageError(f"`{text}` is no span of time\nwrite 30d, 12h, 15m or 90s")
    return dt.timedelta(seconds=int(found[1]) * _SECONDS[found[2]])


def moment_of(text: str) -> dt.datetime:
    """A span ago, or ISO 8601 (UTC when it has no offset). Raises UsageError."""
    if _SPAN.fullmatch(text.strip()):
        return dt.datetime.now(dt.UTC) - span_of(text)
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise click.UsageError(f"`{text}` is no time\nwrite 7d, or 2026-11-24T12:00:00Z") from error
    return found if found.tzinfo else found.replace(tzinfo=dt.UTC)


def condition_of(texts: Sequence[str], table: storage_pb2.Table) -> types_pb2.Predicate:
    """`column=value` and the like, all of which must hold, in the columns' types. Raises UsageError."""
    schema = schema_from_proto(table.schema)
    found = []
    for text in texts:
        if not (match := _CONDITION.fullmatch(text)):
            raise click.UsageError(
                f"`{text}` is no condition\nwrite --where 'customer=42', or --where 'day<2026-01-01'"
            )
        column, operator, value = match.groups()
        if column not in schema.names:
            raise click.UsageError(f"the table has no column `{column}`\nit has {', '.join(schema.names)}")
        literal = _literal(value, schema.field(column).type, column)
        compare = types_pb2.Comparison(column=column, op=_OPERATORS[operator], value=literal)
        found.append(types_pb2.Predicate(compare=compare))
    return found[0] if len(found) == 1 else types_pb2.Predicate(all_of=types_pb2.PredicateList(predicates=found))


def keys_of(texts: Sequence[str], table: storage_pb2.Table) -> maintenance_pb2.EraseKeys:
    """A primary key each; one of several columns is a line of CSV. Raises UsageError."""
    schema, names = schema_from_proto(table.schema), list(table.primary_key)
    if not names:
        raise click.UsageError("the table has no primary key\nname the rows by --where")
    keys = maintenance_pb2.EraseKeys()
    for text in texts:
        cells = next(csv.reader([text]), []) if len(names) > 1 else [text]
        if len(cells) != len(names):
            raise click.UsageError(f"`{text}` is no key of {', '.join(names)}\nwrite one value for each: --key a,b")
        keys.keys.add(
            values=[_literal(cell, schema.field(name).type, name) for cell, name in zip(cells, names, strict=True)]
        )
    return keys


def _literal(text: str, kind: pa.DataType, column: str) -> types_pb2.Value:
    try:
        return value_to_proto(pa.array([text]).cast(kind)[0])
    except (pa.ArrowException, MillraceError) as error:
        raise click.UsageError(
            f"`{text}` is no {kind}, which column {column} is\nwrite it as ISO 8601 or as digits"
        ) from error


def confirmed(question: str, *, yes: bool) -> None:
    """Asks before something that cannot be taken back. Raises Abort, and UsageError where nobody can be asked."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Nobody can be asked here\n`--yes` says that it is meant")
    click.confirm(question, abort=True, err=True)


# -- what a run says
async def watched(
    session: Session, request: Request, label: str, found: Callable[[run_pb2.TableFault], None] | None = None
) -> Outcome:
    """Runs it with its progress on stderr. Ctrl-C leaves the run at work."""
    with Reporter() as reporter:
        task = reporter.start(f"{label} {short_name(request.table)}")

        def progressed(progress: run_pb2.RunProgress) -> None:
            reporter.update(task, progress.rows_read, progress.fraction)

        done = await outcome(session.connection("storage"), request, progressed=progressed, found=found)
        reporter.finish(task)
    if done.state != "SUCCEEDED":
        note(f"the run was {done.state.lower()}", "yellow")
    return done


def show(done: Outcome, output: str) -> None:
    """Reports to stdout."""
    if output == "json":
        plain = {"run": done.name, "state": done.state, "reports": [_plain(report) for report in done.reports]}
        sys.stdout.write(json.dumps(plain, indent=2, ensure_ascii=False) + "\n")
        return
    for report in done.reports:
        sys.stdout.write("\n".join([report.table, *(f"  {line}" for line in lines_of(report))]) + "\n")


def show_check(done: Outcome) -> None:
    """One JSON object a line."""
    plain = {"report": _plain(done.report), "faults": [_plain(fault) for fault in done.faults]}
    sys.stdout.write(json.dumps(plain, ensure_ascii=False) + "\n")


def lines_of(report: run_pb2.TableReport) -> list[str]:
    """A report in words: only what there is to say."""
    found = [
        (report.rows_erased, f"{counted(report.rows_erased, 'rows')} erased"),
        (report.dead_letters_erased, f"{counted(report.dead_letters_erased, 'dead letters')} erased"),
        (
            report.dead_letters_unjudged,
            f"{counted(report.dead_letters_unjudged, 'dead letters')} could not be judged and stay",
        ),
        (report.files_rewritten, f"{counted(report.files_rewritten, 'files')} written anew"),
        (
            report.files_removed,
            f"{counted(report.files_removed, 'files')} leave"
            + (f" ({size(report.bytes_removed)})" if report.bytes_removed else ""),
        ),
        (report.versions_expired, f"{counted(report.versions_expired, 'versions')} expired"),
        (report.oldest_version, f"the oldest version is {report.oldest_version}, the newest {report.version}"),
        (report.HasField("gone_time"), f"the bytes are gone by {instant(report.gone_time)}"),
        (report.held_by, f"older versions stay for the reader {report.held_by}"),
        (report.refresh_run, f"made anew by the run {report.refresh_run}"),
        (report.verified, "verified by a scan"),
    ]
    return [text for given, text in found if given] + list(report.notes)


def fault_line(fault: run_pb2.TableFault) -> str:
    where = " ".join(
        part for part in (f"version {fault.version}" if fault.HasField("version") else "", fault.path) if part
    )
    after = " (removed)" if fault.repaired else " (harmless)" if fault.harmless else ""
    return f"{fault.code}: {where + ': ' if where else ''}{fault.message}{after}"


# -- lists
def show_writers(writers: Sequence[maintenance_pb2.TableWriter], output: str) -> None:
    heads = ("WRITER", "EPOCH", "NEXT OFFSET", "OWNER", "LAST COMMIT", "POSITION")
    _show(writers, output, heads, _writer_row, "nobody appends to it")


def show_runs(runs: Sequence[run_pb2.Run], output: str) -> None:
    heads = ("RUN", "KIND", "TABLE", "STATE", "ROWS READ", "STARTED", "WHY IT FAILED")
    _show(runs, output, heads, _run_row, "there are no runs")


def _show(things: Sequence[Message], output: str, heads: Sequence[str], row: Callable[..., Row], nothing: str) -> None:
    if output == "json":
        sys.stdout.write(json.dumps([_plain(thing) for thing in things], indent=2, ensure_ascii=False) + "\n")
    elif not things:
        note(nothing)
    else:
        sys.stdout.write(grid(heads, [row(thing) for thing in things], colour=colour(sys.stdout)) + "\n")


def _writer_row(writer: maintenance_pb2.TableWriter) -> Row:
    position = ", ".join(f"{name}: {value}" for name, value in sorted(writer.position.positions.items()))
    return (
        writer.writer_id + (" *" if writer.streaming else ""),
        str(writer.epoch),
        f"{writer.next_offset:,}",
        writer.owner,
        instant(writer.last_commit_time),
        position if len(position) <= 60 else position[:59] + "…",
    )


def _run_row(run: run_pb2.Run) -> Row:
    state = run_pb2.RunState.Name(run.state).removeprefix("RUN_STATE_")
    return (
        short_name(run.name),
        run_pb2.RunKind.Name(run.kind).removeprefix("RUN_KIND_"),
        short_name(run.subject),
        Cell(state, {"FAILED": "red", "SUCCEEDED": "green"}.get(state, "")),
        f"{run.progress.rows_read:,}",
        instant(run.start_time),
        run.error.message,
    )


def _plain(message: Message) -> dict[str, object]:
    return dict(MessageToDict(message, preserving_proto_field_name=True))
