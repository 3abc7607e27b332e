"""The options of SQL sources, from their proto message."""

from __future__ import annotations

import re
from dataclasses import dataclass

from millrace.errors import FieldInvalid, FieldRequired
from millrace.extract.v1 import extract_pb2 as pb
from svc_extract.adapters.connectors.files.options import poll_interval_s

DRIVERS = ("postgresql",)
_TABLE = re.compile(r"[^\s.\"\0]{1,63}(\.[^\s.\"\0]{1,63})?")
_MAX_QUERY = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class SqlOptions:
    """`connection`: a secret reference. `source`: what stands behind FROM. `cursor` "": every run reads all."""

    connection: str
    source: str
    cursor: str = ""
    lateness: float = 0.0
    keys: tuple[str, ...] = ()
    poll_s: float = 1.0


def options_from(message: pb.SqlConnector) -> SqlOptions:
    """Raises FieldRequired and FieldInvalid below `sql`."""
    if message.driver not in DRIVERS:
        raise FieldInvalid(
            f"no driver `{message.driver[:32]}`", field="sql.driver", hint=f"one of {', '.join(DRIVERS)}"
        )
    if not message.connection:
        raise FieldRequired("a secret reference is needed", field="sql.connection", hint="env:NAME or file:PATH")
    if message.cursor_column and not message.key_columns:
        raise FieldRequired(
            "rows of equal cursor values cannot be told apart",
            field="sql.key_columns",
            hint="name the column or columns of a unique key",
        )
    if message.cursor_lateness and not message.cursor_column:
        raise FieldInvalid("there is no cursor column", field="sql.cursor_lateness")
    if not 0 <= message.cursor_lateness <= 1e12:
        raise FieldInvalid("0 or more", field="sql.cursor_lateness")
    return SqlOptions(
        connection=message.connection,
        source=_source(message),
        cursor=message.cursor_column,
        lateness=message.cursor_lateness,
        keys=tuple(message.key_columns),
        poll_s=poll_interval_s(message, "sql"),
    )


def _source(message: pb.SqlConnector) -> str:
    if bool(message.table) == bool(message.query):
        raise FieldInvalid("name a table or a query, one of them", field="sql.table")
    if message.table:
        if not _TABLE.fullmatch(message.table):
            raise FieldInvalid("expected `table` or `schema.table`", field="sql.table")
        return ".".join(quoted(part) for part in message.table.split("."))
    text = message.query.strip()
    if len(text) > _MAX_QUERY or text.endswith(";") or "\0" in text:
        raise FieldInvalid("one SELECT of at most 64 KiB, without a semicolon at its end", field="sql.query")
    return f"(\n{text}\n)"


def quoted(name: str) -> str:
    """An identifier as PostgreSQL takes it literally."""
    return '"' + name.replace('"', '""') + '"'
