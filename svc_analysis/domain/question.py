"""A question becomes a plan: which text runs over which versions, and in which order its rows come."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from millrace.errors import FieldInvalid, SqlInvalid
from svc_analysis.domain.resolve import names_storage_columns, resolve, time_column
from svc_analysis.ports import Engine, Language, Pinned, Ref, Spec, Statement, Tables, Text


@dataclass(frozen=True, slots=True)
class SqlText:
    """`params`: Python values by name."""

    sql: str
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """`versions`: full name → version; others are read at their newest. `fingerprint`: equal questions have equal ones.

    `uids`: full name → uid that the table must have, from a token."""

    asked: Spec | SqlText
    namespace: str
    versions: Mapping[str, int] = field(default_factory=dict)
    uids: Mapping[str, str] = field(default_factory=dict)
    fingerprint: bytes = b""


@dataclass(frozen=True, slots=True)
class Plan:
    """Ready to run. `tables`: what the text reads. `total_order`: run `deterministic`, the same rows come in the same order."""

    statement: Statement
    tables: Mapping[Ref, Pinned]
    total_order: bool

    @property
    def versions(self) -> dict[str, int]:
        return {table.name: table.version for table in self.tables.values()}

    @property
    def uids(self) -> dict[str, str]:
        return {table.name: table.uid for table in self.tables.values()}

    @property
    def size_bytes(self) -> int:
        """Of the files that it could touch; a table read under two names counts once."""
        return sum({table.name: table.size_bytes for table in self.tables.values()}.values())


class Planner:
    """Makes plans. Calls nothing but the ports; keeps only the highest times of versions, which never change."""

    def __init__(self, tables: Tables, engine: Engine, language: Language) -> None:
        self._tables, self._engine, self._language = tables, engine, language
        self._highs: dict[tuple[str, int, str], int | None] = {}

    async def tables_of(self, question: Question) -> tuple[str, ...]:
        """Full names of the tables that the question reads. Raises SqlInvalid."""
        if isinstance(question.asked, Spec):
            return (question.asked.table,)
        text = await self._parse(question.asked, question)
        return tuple(sorted(set(text.tables.values())))

    async def _parse(self, asked: SqlText, question: Question) -> Text:
        """Off the loop: a hostile text may keep the parser busy for seconds."""
        return await asyncio.to_thread(self._language.parse, asked.sql, question.namespace)

    async def plan(self, question: Question, *, resumable: bool = False) -> Plan:
        """Pins every table and makes the text. Raises FieldInvalid, FieldRequired, SqlInvalid, and what pinning raises."""
        asked = question.asked
        plan = await (
            self._plan_spec(asked, question, resumable)
            if isinstance(asked, Spec)
            else self._plan_text(asked, question, resumable)
        )
        if unread := sorted(set(question.versions) - set(plan.versions)):
            raise FieldInvalid(f"the question does not read `{unread[0]}`", field="versions")
        return plan

    async def columns(self, plan: Plan) -> pa.Schema:
        """Columns of the plan's result. Raises SqlInvalid for what only shows when the tables are known."""
        statement = Statement(self._language.columns(plan.statement.sql), plan.statement.params)
        async with self._engine.open(statement, plan.tables) as result:
            return result.schema

    def arranged(self, sql: str, columns: Sequence[str], order: Sequence[str]) -> str:
        """A plan's text with only `columns`, ordered by `order`."""
        return self._language.arranged(sql, columns, order)

    # -- SQL -------------------------------------------------------------------------------------------------------------
    async def _plan_text(self, asked: SqlText, question: Question, resumable: bool) -> Plan:
        text = await self._parse(asked, question)
        _check_parameters(text.parameters, asked.params)
        by_name: dict[str, list[Ref]] = {}
        for ref, name in text.tables.items():
            by_name.setdefault(name, []).append(ref)
        pinned = await asyncio.gather(*(self._pin(name, refs, question) for name, refs in by_name.items()))
        tables = {ref: table for part in pinned for ref, table in part.items()}
        plan = Plan(Statement(asked.sql, asked.params), tables, total_order=False)
        if not resumable or text.volatile:
            return plan
        sql = self._language.total_order(asked.sql, len(await self.columns(plan)))
        return Plan(Statement(sql, asked.params), tables, total_order=True)

    async def _pin(self, name: str, refs: list[Ref], question: Question) -> dict[Ref, Pinned]:
        """All names of one table at one version."""
        version, uid = question.versions.get(name), question.uids.get(name, "")
        found: dict[Ref, Pinned] = {}
        for ref in refs:
            table = await self._tables.pin(name, version=version, uid=uid, storage_columns=ref.with_storage_columns)
            found[ref], version, uid = table, table.version, table.uid
        return found

    # -- typed -----------------------------------------------------------------------------------------------------------
    async def _plan_spec(self, spec: Spec, question: Question, resumable: bool) -> Plan:
        storage_columns = names_storage_columns(spec)
        pinning = self._tables.pin(
            spec.table,
            version=question.versions.get(spec.table),
            uid=question.uids.get(spec.table, ""),
            storage_columns=storage_columns,
        )
        facts, table = await asyncio.gather(self._tables.facts(spec.table), pinning)
        high = None
        if spec.last_seconds:
            high = await self._high(time_column(spec, facts.event_time_column), table, storage_columns)
        resolved = resolve(spec, table.schema, facts.event_time_column, high)
        statement, ref = self._language.compile(
            resolved, spec.table, storage_columns=storage_columns, total_order=resumable
        )
        return Plan(statement, {ref: table}, total_order=resumable)

    async def _high(self, column: str, table: Pinned, storage_columns: bool) -> int | None:
        """The highest time of exactly this version: a pinned question gives the same answer for ever."""
        key = (table.uid, table.version, column)
        if key not in self._highs:
            if column not in table.schema.names:
                raise FieldInvalid(f"the table has no column `{column}`", field="spec.time_column")
            sql, ref = self._language.highest(column, table.name, storage_columns=storage_columns)
            async with self._engine.open(Statement(sql), {ref: table}) as result:
                values = [value for batch in [b async for b in result] for value in batch.column(0).to_pylist()]
            while len(self._highs) >= 1000:
                del self._highs[next(iter(self._highs))]
            self._highs[key] = values[0] if values else None
        return self._highs[key]


def _check_parameters(named: frozenset[str], given: Mapping[str, Any]) -> None:
    if missing := sorted(named - set(given)):
        raise FieldInvalid(f"the text names ${missing[0]}, which is not given", field=f"sql.params[{missing[0]}]")
    if unused := sorted(set(given) - named):
        raise FieldInvalid(f"the text does not name ${unused[0]}", field=f"sql.params[{unused[0]}]")
    if positional := sorted(name for name in named if name.isdigit()):
        raise SqlInvalid(f"${positional[0]}: parameters are named, for instance $since")
