"""Runs recipes on DuckDB over the files of pinned versions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pyarrow as pa

from millrace.arrow.types import canonical_schema, normalise
from millrace.engine.files import Files
from millrace.engine.pinned import PinnedTable, Statement
from millrace.engine.run import Engine
from millrace.engine.sandbox import parse
from millrace.errors import FieldInvalid, TableRecreated
from svc_transform.ports import InputRange, Inspection, TableFacts

DEADLINE_S = 3600.0
_TABLES_MAX = 32


class DuckdbRecipes:
    """The Engine port. Results come in the order of all their columns: equal rows are interchangeable, so only the rows decide it."""

    def __init__(self, engine: Engine, files: Files) -> None:
        self._engine, self._files = engine, files

    def inspect(self, sql: str, namespace: str) -> Inspection:
        parsed = parse(sql)
        if parsed.parameters:
            raise FieldInvalid("a recipe has no parameters", field="spec.sql", hint="write the value into the SQL")
        written = {ref.full_name(namespace): str(ref) for ref in parsed.tables}
        if not written:
            raise FieldInvalid("the SELECT reads no table", field="spec.sql", hint="name at least one input table")
        if len(written) > _TABLES_MAX:
            raise FieldInvalid(f"the SELECT reads {len(written)} tables, at most {_TABLES_MAX}", field="spec.sql")
        return Inspection(tuple(sorted(written)), parsed.tree, written)

    async def columns(self, sql: str, namespace: str, inputs: Sequence[TableFacts]) -> pa.Schema:
        schemas = {facts.name: facts for facts in inputs}
        tables = {
            ref: PinnedTable(
                name=(name := ref.full_name(namespace)),
                uid=schemas[name].uid,
                version=schemas[name].version,
                schema=schemas[name].schema,
            )
            for ref in parse(sql).tables
        }
        result = await self._engine.table(Statement(sql=f"SELECT * FROM ({sql}) LIMIT 0"), tables)
        return canonical_schema(result.schema)

    @asynccontextmanager
    async def run(
        self, sql: str, namespace: str, inputs: Sequence[InputRange]
    ) -> AsyncIterator[AsyncIterator[pa.RecordBatch]]:
        parts = {part.table: part for part in inputs}
        tables = {ref: await self._pin(parts[ref.full_name(namespace)]) for ref in parse(sql).tables}
        statement = Statement(sql=f"SELECT * FROM ({sql}) ORDER BY ALL")
        async with self._engine.open(statement, tables, deadline_s=DEADLINE_S, deterministic=True) as result:
            yield (normalise(batch) async for batch in result)

    async def _pin(self, part: InputRange) -> PinnedTable:
        pinned = await self._files.pin(part.table, version=part.version, uid=part.uid, after_version=part.after_version)
        if pinned.uid != part.uid:
            raise TableRecreated(f"`{part.table}` is another table now")
        return pinned
