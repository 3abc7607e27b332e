"""Rows of a database table or query: all of them, or those that a cursor column shows as new."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import closing, suppress
from dataclasses import replace

import pyarrow as pa

from millrace.arrow.types import canonical
from millrace.errors import FieldInvalid, FixRequest, MillraceError, SchemaMismatch, UnsupportedType
from millrace.failpoints import failpoint
from svc_extract.adapters.connectors.sql.options import SqlOptions, options_from
from svc_extract.adapters.connectors.sql.places import Place
from svc_extract.adapters.connectors.sql.postgres import CURSOR, KEY, NUMBER, Session, Shape
from svc_extract.domain.parsing.arrow_rows import json_of, rows_of
from svc_extract.domain.parsing.casting import cast_text
from svc_extract.domain.parsing.parsed import Parsed, letter, pieces
from svc_extract.ports import (
    CheckReport,
    Chunk,
    Clock,
    ConnectorInfo,
    Finding,
    Guarantee,
    Position,
    Secrets,
    SourceSpec,
    TableInfo,
    Until,
)

ROWS_PER_STEP = 8_192


class SqlConnector:
    info = ConnectorInfo(
        name="sql",
        description="Rows of a PostgreSQL table or query: all, or those that a cursor column shows as new.",
        guarantee=Guarantee.REPLAYABLE,
        continuous=True,
        formats=("postgresql",),
    )

    def __init__(self, secrets: Secrets, clock: Clock) -> None:
        self._secrets, self._clock = secrets, clock

    def validate(self, spec: SourceSpec) -> None:
        options = options_from(spec.options)
        self._secrets.reveal(options.connection, field="sql.connection")
        if spec.continuous and not options.cursor:
            raise FieldInvalid(
                "without a cursor column each run reads all rows, so it cannot run by itself",
                field="sql.cursor_column",
                hint="name a column that never falls for new rows, or set continuous: false",
            )

    async def check(self, spec: SourceSpec, table: TableInfo) -> CheckReport:
        options = options_from(spec.options)
        guarantee = Guarantee.REPLAYABLE if options.cursor else Guarantee.AT_LEAST_ONCE
        try:
            schema = await asyncio.to_thread(self._look, options, table)
        except MillraceError as error:
            fatal = isinstance(error, FixRequest)
            text = f"{error.message} ({error.hint})" if error.hint else error.message
            return CheckReport((Finding(fatal, error.reason, error.field or "sql", text),), None, guarantee)
        return CheckReport((), schema, guarantee)

    def _look(self, options: SqlOptions, table: TableInfo) -> pa.Schema:
        with closing(self._open(options)) as session:
            shape = session.shape(options)
        check_columns(shape.schema, table.schema)
        return pa.schema([_discovered(field) for field in shape.schema])

    def _open(self, options: SqlOptions) -> Session:
        return Session(self._secrets.reveal(options.connection, field="sql.connection"))

    async def read(
        self, spec: SourceSpec, table: TableInfo, start: Position | None, until: Until
    ) -> AsyncGenerator[Chunk]:
        options, place = options_from(spec.options), Place.parse(start)
        while True:
            read_any = False
            steps = _Pass(self, options, table, place)
            try:
                while (chunk := await asyncio.to_thread(steps.next)) is not None:
                    failpoint("extract.after_read")
                    read_any = True
                    yield chunk
            finally:
                with suppress(MillraceError):
                    await asyncio.shield(asyncio.to_thread(steps.close))
            if until is Until.END or not options.cursor or (until is Until.CAUGHT_UP and not read_any):
                return
            if not read_any:
                yield Chunk(activity="waiting for new rows", fraction=1.0)
                await self._clock.sleep(min(options.poll_s, 5.0))

    def chunks(self, options: SqlOptions, table: TableInfo, place: Place) -> Iterator[Chunk]:
        """One pass over what is there. Blocking."""
        with closing(self._open(options)) as session:
            shape = session.shape(options)
            check_columns(shape.schema, table.schema)
            if not options.cursor:
                for batch in session.everything(options):
                    yield from _whole(batch, table)
                return
            for batch in session.since(options, shape.types[options.cursor], place.high):
                yield from _new(batch, table, shape, options, place)


class _Pass:
    """One pass as steps for worker threads; each step is one chunk. Closing waits for a step that was left alone while it ran."""

    def __init__(self, connector: SqlConnector, options: SqlOptions, table: TableInfo, place: Place) -> None:
        self._chunks = connector.chunks(options, table, place)
        self._guard = threading.Lock()

    def next(self) -> Chunk | None:
        with self._guard:
            return next(self._chunks, None)

    def close(self) -> None:
        close = getattr(self._chunks, "close", None)
        if close is not None:
            with self._guard:
                close()


def _whole(batch: pa.RecordBatch, table: TableInfo) -> Iterator[Chunk]:
    for first in range(0, batch.num_rows, ROWS_PER_STEP):
        parsed = parsed_from(batch.slice(first, ROWS_PER_STEP), table.schema)
        for piece in pieces(parsed):
            yield Chunk(rows=piece.rows, dead_letters=piece.letters, source_bytes=piece.rows.nbytes)


def _new(batch: pa.RecordBatch, table: TableInfo, shape: Shape, options: SqlOptions, place: Place) -> Iterator[Chunk]:
    """The rows of `batch` that are not out yet, each chunk with the place after it."""
    keys = batch.column(batch.schema.get_field_index(KEY)).to_pylist()
    fresh = place.fresh(keys)
    rows = batch.take(pa.array(fresh, pa.int64())) if len(fresh) < batch.num_rows else batch
    for first in range(0, rows.num_rows, ROWS_PER_STEP):
        part = rows.slice(first, ROWS_PER_STEP)
        keys, cursors, numbers = (_column(part, name) for name in (KEY, CURSOR, NUMBER))
        parsed = parsed_from(part.select(shape.schema.names), table.schema)
        for piece in pieces(parsed):
            until = slice(piece.first, piece.first + piece.records)
            place.move(keys[until], numbers[until], cursors[until], lateness=options.lateness)
            yield Chunk(
                rows=piece.rows,
                dead_letters=piece.letters,
                position=place.position(),
                source_bytes=piece.rows.nbytes,
            )


def _column(rows: pa.RecordBatch, name: str) -> list:  # type: ignore[type-arg]
    return rows.column(rows.schema.get_field_index(name)).to_pylist()  # type: ignore[no-any-return]


def check_columns(source: pa.Schema, table: pa.Schema) -> None:
    """Raises SchemaMismatch where the table has no place for a column of the source, or misses one that may not be NULL."""
    if extra := [name for name in source.names if name not in table.names]:
        raise SchemaMismatch(
            f"the table has no column `{extra[0]}`", field="sql.query", hint="select the table's columns in `sql.query`"
        )
    for field in table:
        if not field.nullable and field.name not in source.names:
            raise SchemaMismatch(f"the source lacks `{field.name}`, which may not be NULL", field="sql.query")


def parsed_from(rows: pa.RecordBatch, table: pa.Schema) -> Parsed:
    """Rows of the driver in the table's schema; a row with a value that the column cannot hold is a dead letter with the row as JSON.

    Columns that the driver gives in types of its own (numeric, json, uuid) are text, or what the text says where the table wants it."""
    columns: list[pa.Array] = []
    bad: dict[int, tuple[str, str]] = {}
    for field, column in zip(rows.schema, rows.columns, strict=True):
        plain = plain_text(column)
        if plain is not column:
            plain, wrong = cast_text(plain, table.field(field.name).type)
            bad.update((int(index), ("TYPE", field.name)) for index in wrong)
        columns.append(plain)
    typed = pa.RecordBatch.from_arrays(columns, names=rows.schema.names)
    if not bad:
        return rows_of(typed, table)
    kept = [index for index in range(rows.num_rows) if index not in bad]
    rest = rows_of(typed.take(pa.array(kept, pa.int64())), table)
    raws = {index: json_of(rows.slice(index, 1)) for index in bad}
    letters = [letter(index, *why, raws[index]) for index, why in bad.items()]
    letters += [replace(one, row_index=kept[one.row_index]) for one in rest.letters]
    return Parsed(rest.rows, tuple(sorted(letters, key=lambda one: one.row_index)))


def plain_text(column: pa.Array) -> pa.Array:
    """An extension's values as text; anything else as it is."""
    if not isinstance(column.type, pa.BaseExtensionType):
        return column
    if getattr(column.type, "extension_name", "") == "arrow.uuid":
        return pa.array([None if value is None else str(value) for value in column.to_pylist()], pa.string())
    return column.storage.cast(pa.string())


def _discovered(field: pa.Field) -> pa.Field:
    if isinstance(field.type, pa.BaseExtensionType):
        return pa.field(field.name, pa.string(), nullable=True)
    try:
        return pa.field(field.name, canonical(field.type), nullable=True)
    except UnsupportedType:
        return pa.field(field.name, pa.string(), nullable=True)
