"""The engine and both languages: millrace.engine behind this service's ports."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache, partial
from typing import cast

import pyarrow as pa

from millrace.arrow.types import canonical_schema, normalise
from millrace.engine import run
from millrace.engine.names import ALL, TableRef, bare_name
from millrace.engine.pinned import PinnedTable
from millrace.engine.pinned import Statement as EngineStatement
from millrace.engine.sandbox import parse, with_total_order
from millrace.engine.views import quote
from millrace.errors import SqlInvalid
from svc_analysis.adapters.compile.queries import compile_highest, compile_spec, edges_of, shape_of
from svc_analysis.ports import Pinned, Ref, Resolved, Result, Statement, Text

_SCHEMA = "q"
"""Where compiled questions see their table: a schema of its own, so that a table may bear any name that a namespace may."""


class DuckDbResult:
    """Batches in canonical types."""

    def __init__(self, engine: run.Engine, result: run.Result) -> None:
        self._engine, self._result = engine, result
        names = result.schema.names
        if twice := next((name for at, name in enumerate(names) if name in names[:at]), None):
            raise SqlInvalid(
                f"two columns of the result are called `{twice}`", hint="give one of them another name: AS"
            )
        self._schema: pa.Schema = canonical_schema(_typed(result.schema))

    @property
    def schema(self) -> pa.Schema:
        return self._schema

    async def __aiter__(self) -> AsyncIterator[pa.RecordBatch]:
        async for batch in self._result:
            if batch.schema.types != self._schema.types:
                batch = await self._engine.run(partial(_canonical, batch))
            yield batch


def _canonical(batch: pa.RecordBatch) -> pa.RecordBatch:
    return normalise(batch.cast(_typed(batch.schema)))


def _typed(schema: pa.Schema) -> pa.Schema:
    """A bare NULL is an INTEGER, as it is in DuckDB itself."""
    return pa.schema([f.with_type(pa.int32()) if pa.types.is_null(f.type) else f for f in schema])


class DuckDbEngine:
    """`svc_analysis.ports.Engine`."""

    def __init__(self, engine: run.Engine) -> None:
        self._engine = engine

    @asynccontextmanager
    async def open(
        self,
        statement: Statement,
        tables: Mapping[Ref, Pinned],
        *,
        deadline_s: float | None = None,
        deterministic: bool = False,
    ) -> AsyncIterator[Result]:
        opened = self._engine.open(
            EngineStatement(sql=statement.sql, params=statement.params),
            cast(Mapping[TableRef, PinnedTable], tables),
            deadline_s=deadline_s,
            deterministic=deterministic,
        )
        async with opened as result:
            yield DuckDbResult(self._engine, result)


@lru_cache(maxsize=256)
def _parsed(sql: str, namespace: str) -> Text:
    """Live questions are planned again with every change, with the same text."""
    parsed = parse(sql)
    return Text(
        tables={ref: ref.full_name(namespace) for ref in parsed.tables},
        parameters=frozenset(parsed.parameters),
        volatile=frozenset(parsed.volatile),
    )


TEXTS_KEPT = 512


class DuckDbLanguage:
    """`svc_analysis.ports.Language`."""

    def __init__(self) -> None:
        self._texts: dict[tuple[str, TableRef, bool], str] = {}  # the least recently used first

    def parse(self, sql: str, namespace: str) -> Text:
        return _parsed(sql, namespace)

    def total_order(self, sql: str, columns: int) -> str:
        return with_total_order(sql, columns)

    def columns(self, sql: str) -> str:
        return f"SELECT * FROM ({sql.strip().rstrip(';')}\n) LIMIT 0"

    def arranged(self, sql: str, columns: Sequence[str], order: Sequence[str]) -> str:
        chosen = ", ".join(map(quote, columns))
        by = f" ORDER BY {', '.join(f'{quote(name)} NULLS LAST' for name in order)}" if order else ""
        return f"SELECT {chosen} FROM ({sql.strip().rstrip(';')}\n){by}"

    def compile(self, spec: Resolved, table: str, *, storage_columns: bool, total_order: bool) -> tuple[Statement, Ref]:
        """Live questions are compiled again with every change: making the text takes 10 ms and more, finding it none."""
        ref = _ref(table, storage_columns)
        key = (shape_of(spec), ref, total_order)
        if (sql := self._texts.pop(key, None)) is None:
            sql = compile_spec(spec, ref.schema, ref.name, total_order=total_order)
            while len(self._texts) >= TEXTS_KEPT:
                del self._texts[next(iter(self._texts))]
        self._texts[key] = sql
        return Statement(sql, edges_of(spec, sql)), ref

    def highest(self, column: str, table: str, *, storage_columns: bool) -> tuple[str, Ref]:
        ref = _ref(table, storage_columns)
        return compile_highest(column, ref.schema, ref.name), ref


def _ref(table: str, storage_columns: bool) -> TableRef:
    return TableRef(_SCHEMA, bare_name(table) + (ALL if storage_columns else ""))
