"""One question, one stream of rows: cut at `max_rows`, resumable where the order is total."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pyarrow as pa

from millrace.errors import FieldInvalid
from svc_analysis.domain import tokens
from svc_analysis.domain.question import Plan, Planner, Question, SqlText
from svc_analysis.ports import Engine, Result

DEFAULT_MAX_ROWS = 1_000_000


@dataclass(slots=True)
class Answer:
    """An open answer. `query_id`: for logs and support. Rows come from `batches`; after that `row_count`, `truncated` and
    `elapsed_s` are final."""

    query_id: str
    plan: Plan
    schema: pa.Schema
    row_count: int
    max_rows: int
    truncated: bool = False
    _fingerprint: bytes = b""
    _skip: int = 0
    _began: float = field(default_factory=time.monotonic)
    _result: Result | None = None

    async def batches(self) -> AsyncGenerator[pa.RecordBatch, None]:
        """The rows after the resume token, at most `max_rows` from the beginning. None is empty."""
        assert self._result is not None
        async for batch in self._result:
            if self._skip:
                skipped = min(self._skip, batch.num_rows)
                self._skip -= skipped
                batch = batch.slice(skipped)
            if not batch.num_rows:
                continue
            left = self.max_rows - self.row_count
            if batch.num_rows > left:
                self.truncated = True
                batch = batch.slice(0, left)
            self.row_count += batch.num_rows
            if batch.num_rows:
                yield batch
            if self.truncated:
                return

    def token(self, rows: int) -> bytes:
        """Means "after the first `rows` rows"; empty where the order is not total."""
        if not self.plan.total_order:
            return b""
        return tokens.encode(self._fingerprint, rows, self.plan.versions, self.plan.uids)

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._began


class Queries:
    """Answers questions once."""

    def __init__(self, planner: Planner, engine: Engine) -> None:
        self._planner, self._engine = planner, engine

    async def warm(self) -> None:
        """Asks about nothing, so that the first real question finds parser and engine loaded."""
        async with self.open(Question(asked=SqlText("SELECT 1 AS x"), namespace="default")) as answer:
            async for _ in answer.batches():
                pass

    @asynccontextmanager
    async def open(
        self,
        question: Question,
        *,
        max_rows: int = 0,
        resumable: bool = False,
        resume_token: bytes = b"",
        deadline_s: float | None = None,
    ) -> AsyncIterator[Answer]:
        """The block reads the answer. Raises FieldInvalid, SqlInvalid, TokenMismatch, TokenUnsupported, TableRecreated, VersionExpired and
        what the engine raises."""
        began = time.monotonic()
        if max_rows < 0:
            raise FieldInvalid("0 (1,000,000) or more rows are expected", field="max_rows")
        token = tokens.decode(resume_token, question.fingerprint) if resume_token else None
        if token is not None:
            question = replace(question, versions=token.versions(await self._planner.tables_of(question)))
        plan = await self._planner.plan(question, resumable=resumable)
        if token is not None:
            token.check_uids(plan.uids)
        opened = self._engine.open(plan.statement, plan.tables, deadline_s=deadline_s, deterministic=plan.total_order)
        async with opened as result:
            rows = token.rows if token is not None else 0
            yield Answer(
                query_id=uuid.uuid4().hex,
                plan=plan,
                schema=result.schema,
                row_count=rows,
                max_rows=max_rows or DEFAULT_MAX_ROWS,
                _fingerprint=question.fingerprint,
                _skip=rows,
                _began=began,
                _result=result,
            )
