"""PostgreSQL through ADBC. Everything here blocks: on a worker thread. ADBC takes half a second to import, so it is, when first needed."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import pyarrow as pa

from millrace.errors import FieldInvalid, MillraceError, NotAllowed, SourceUnavailable
from svc_extract.adapters.connectors.sql.options import SqlOptions, quoted

CURSOR, KEY, NUMBER = "_millrace_cursor", "_millrace_key", "_millrace_number"
BATCH_BYTES = 2_000_000
CONNECT_TIMEOUT_S = 10
_TIMES = frozenset({"timestamptz", "timestamp", "date"})
_NUMBERS = frozenset({"int2", "int4", "int8", "numeric", "float4", "float8"})


@dataclass(frozen=True, slots=True)
class Shape:
    """What a source has. `types`: PostgreSQL's type of each column."""

    schema: pa.Schema
    types: dict[str, str]


class Session:
    """One read-only connection. Close it; closing while another thread reads ends that reading."""

    def __init__(self, uri: str) -> None:
        """Raises SourceUnavailable, NotAllowed, FieldInvalid (not a URI)."""
        from adbc_driver_postgresql import dbapi

        address = _checked(uri)
        try:
            self._connection: Any = dbapi.connect(address, autocommit=True)
            with self._connection.cursor() as cursor:
                cursor.execute("SET default_transaction_read_only = on")
        except Exception as error:
            raise _translated(error) from None

    def shape(self, options: SqlOptions) -> Shape:
        """Raises FieldInvalid where the table, the query or a column does not exist."""
        statement = f"SELECT * FROM {options.source} AS q LIMIT 0"
        with self._reader(statement, ()) as reader:
            schema = reader.schema
        types = {field.name: (field.metadata or {}).get(b"POSTGRESQL:type", b"").decode() for field in schema}
        for name, where in ((options.cursor, "sql.cursor_column"), *((key, "sql.key_columns") for key in options.keys)):
            if name and name not in types:
                raise FieldInvalid(f"the source has no column `{name}`", field=where)
        if options.lateness and types[options.cursor] not in _TIMES | _NUMBERS:
            raise FieldInvalid(
                f"a `{types[options.cursor]}` has no distance to be late by",
                field="sql.cursor_lateness",
                hint="leave it out",
            )
        return Shape(schema, types)

    def everything(self, options: SqlOptions) -> Iterator[pa.RecordBatch]:
        """All rows, in the database's order."""
        yield from self._batches(f"SELECT * FROM {options.source} AS q", ())

    def since(self, options: SqlOptions, kind: str, high: str | None) -> Iterator[pa.RecordBatch]:
        """Rows from `high` (less the lateness) on, in the cursor's order, with the columns CURSOR, KEY and NUMBER behind their own."""
        cursor = f"q.{quoted(options.cursor)}"
        digest = ", ".join([*(f"q.{quoted(key)}" for key in options.keys), cursor])
        number = f"extract(epoch FROM {cursor})::float8" if kind in _TIMES else f"{cursor}::float8"
        number = number if options.lateness else "0::float8"
        bound = f" AND {cursor} >= {_bound(options, kind)}" if high is not None else ""
        statement = (
            f"SELECT q.*, {cursor}::text AS {CURSOR}, left(md5(ROW({digest})::text), 20) AS {KEY}, {number} AS {NUMBER} "
            f"FROM {options.source} AS q WHERE {cursor} IS NOT NULL{bound} ORDER BY {cursor}, {KEY}"
        )
        yield from self._batches(statement, () if high is None else (high,))

    def close(self) -> None:
        with suppress(Exception):
            self._connection.close()

    def _batches(self, statement: str, values: Sequence[str]) -> Iterator[pa.RecordBatch]:
        with self._reader(statement, values) as reader:
            while True:
                try:
                    batch = reader.read_next_batch()
                except StopIteration:
                    return
                except Exception as error:
                    raise _translated(error) from None
                yield batch

    @contextmanager
    def _reader(self, statement: str, values: Sequence[str]) -> Iterator[pa.RecordBatchReader]:
        with closing(self._connection.cursor()) as cursor:
            try:
                cursor.adbc_statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": str(BATCH_BYTES)})
                cursor.execute(statement, tuple(values) or None)
                reader = cursor.fetch_record_batch()
            except Exception as error:
                raise _translated(error) from None
            with closing(reader):
                yield reader


def _bound(options: SqlOptions, kind: str) -> str:
    value = f"$1::text::{kind}" if kind in _TIMES | _NUMBERS else "$1::text"
    if not options.lateness:
        return value
    if kind in _TIMES:
        return f"{value} - make_interval(secs => {options.lateness!r})"
    return f"{value} - {options.lateness!r}::numeric"


def _checked(uri: str) -> str:
    """The URI with a time-out for connecting. Link-local and metadata addresses are refused, by whatever name they are called."""
    parts = urlsplit(uri)
    if parts.scheme not in ("postgresql", "postgres") or not parts.hostname:
        raise FieldInvalid("the secret is no `postgresql://user:password@host:port/database`", field="sql.connection")
    for address in _addresses(parts.hostname, parts.port or 5432):
        if address.is_link_local or address.is_multicast or address.is_unspecified:
            raise NotAllowed("the database's address is link-local, multicast or unspecified", field="sql.connection")
    query = dict(parse_qsl(parts.query))
    query.setdefault("connect_timeout", str(CONNECT_TIMEOUT_S))
    return urlunsplit(parts._replace(query=urlencode(query)))


def _addresses(host: str, port: int) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise SourceUnavailable("the database's host name has no address", field="sql.connection") from error
    return [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]


def _translated(error: Exception) -> MillraceError:
    """Ours for the driver's error: its SQLSTATE, never its text, which may repeat values and addresses."""
    if isinstance(error, MillraceError):
        return error
    state = str(getattr(error, "sqlstate", None) or "")
    if isinstance(error, pa.ArrowInvalid):  # raised while rows came: Arrow's reader passes on no SQLSTATE
        state = "25006" if "read-only transaction" in str(error) else "22000"
    if state.startswith(("28", "3D")):
        return FieldInvalid(f"the database refused the login (SQLSTATE {state})", field="sql.connection")
    if state == "25006":
        return FieldInvalid("the query changes data; sources only read", field="sql.query")
    if state == "42501":
        return NotAllowed("the login may not read the source (SQLSTATE 42501)", field="sql.table")
    if state.startswith(("42", "22", "0A")):
        return FieldInvalid(f"the database refused the query (SQLSTATE {state})", field="sql.query")
    return SourceUnavailable(f"the database does not answer{f' (SQLSTATE {state})' if state else ''}")
