"""One subscriber: frames at its own pace, whole or as what changed, from where it stopped."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from enum import Enum
from typing import TypeAlias

import pyarrow as pa

from millrace.errors import FieldInvalid, FieldRequired
from svc_analysis.domain import tokens
from svc_analysis.domain.frames import Delta, Frame, check_keys
from svc_analysis.domain.live import Computation, LiveQuestion, LiveQuestions
from svc_analysis.domain.question import Planner

DEFAULT_INTERVAL_S, DEFAULT_MAX_ROWS = 0.25, 100_000
LARGE = 0.5
"""AUTO sends all rows when more than this share of them changed."""


class Mode(Enum):
    AUTO, REPLACE, UPSERT = range(3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a subscriber asks for. `fingerprint`: of the whole request, for tokens."""

    live: LiveQuestion
    mode: Mode = Mode.AUTO
    key_columns: tuple[str, ...] = ()
    min_interval_s: float = DEFAULT_INTERVAL_S
    resume_token: bytes = b""
    fingerprint: bytes = b""


@dataclass(frozen=True, slots=True)
class Header:
    """The columns from here on."""

    schema: pa.Schema
    key_schema: pa.Schema


@dataclass(frozen=True, slots=True)
class Shown:
    """A frame for this subscriber. `delta` None: all rows, because of `reason`. `token`: means "after this frame"."""

    frame: Frame
    delta: Delta | None
    reason: str
    conflated: int
    token: bytes


Event: TypeAlias = Header | Shown


class Subscription:
    """Made by `Subscriptions.open`. `token`: of the last frame that was handed on, for heartbeats."""

    def __init__(self, wish: Wish, computation: Computation, schema: pa.Schema) -> None:
        self.id = uuid.uuid4().hex
        self.tables = computation.tables
        self.token = wish.resume_token
        self._wish, self._computation, self._schema = wish, computation, schema
        self._shown: Frame | None = None
        self._resumed = bool(wish.resume_token)

    async def events(self) -> AsyncGenerator[Event, None]:
        """A Header, then frames for ever; a Header again when the columns change. Raises why the question cannot go on."""
        check_keys(self._schema, self._wish.key_columns)
        yield self._header()
        last_sent = float("-inf")
        while True:
            frame = await self._next(last_sent)
            if not frame.table.schema.equals(self._schema):
                self._schema = frame.table.schema
                check_keys(self._schema, self._wish.key_columns)
                yield self._header()
            if self._is_known(frame):
                self._shown = frame
                continue
            shown = await self._show(frame)
            self._shown, last_sent = frame, time.monotonic()
            yield shown
            self.token = shown.token  # only now is the frame out: a heartbeat in its middle must not claim it

    def _header(self) -> Header:
        keys = pa.schema([self._schema.field(name) for name in self._wish.key_columns])
        return Header(self._schema, keys)

    async def _next(self, last_sent: float) -> Frame:
        """The newest frame that was not shown, no sooner than `min_interval` after the last one went out."""
        while self._frame() is None:
            changed = self._computation.changed
            if self._frame() is None:
                await changed.wait()
        pause = last_sent + self._wish.min_interval_s - time.monotonic()
        if pause > 0:
            await asyncio.sleep(pause)
        frame = self._frame()
        assert frame is not None, "a computation never takes a frame back"
        return frame

    def _frame(self) -> Frame | None:
        """Raises the computation's failure once its last frame was shown."""
        latest = self._computation.latest
        if latest is not None and latest is not self._shown:
            return latest
        if self._computation.failure is not None:
            raise self._computation.failure
        return None

    def _is_known(self, frame: Frame) -> bool:
        """True for the first frame after a resume when nothing changed since the token."""
        if self._shown is not None or not self._resumed:
            return False
        return self._token(frame) == self._wish.resume_token

    async def _show(self, frame: Frame) -> Shown:
        before = self._shown
        conflated = 0
        if before is not None:
            landed = (frame.landed[name] - before.landed.get(name, 0) - 1 for name in frame.landed)
            conflated = sum(max(0, versions) for versions in landed)
        reason = self._reason(before, frame)
        delta = None
        if not reason and before is not None:
            delta = await frame.since(before, self._wish.key_columns)
            reason = self._too_much(delta, frame)
        return Shown(frame, None if reason else delta, reason, conflated, self._token(frame))

    def _reason(self, before: Frame | None, frame: Frame) -> str:
        """Why all rows are sent whatever changed; empty when a delta may do."""
        if before is None:
            return "RESUMED" if self._resumed else "FIRST"
        if before.uids != frame.uids:
            return "TABLE_RECREATED"
        if not before.table.schema.equals(frame.table.schema):
            return "SCHEMA"
        if self._wish.mode is Mode.REPLACE or not self._wish.key_columns:
            return "MODE"
        return ""

    def _too_much(self, delta: Delta | None, frame: Frame) -> str:
        if self._wish.mode is Mode.UPSERT:
            if delta is None:
                raise FieldInvalid("two rows of the result have the same key", field="key_columns")
            return ""
        return "LARGE_CHANGE" if delta is None or delta.size > LARGE * max(1, frame.table.num_rows) else ""

    def _token(self, frame: Frame) -> bytes:
        return tokens.encode(self._wish.fingerprint, 0, frame.versions, frame.uids)


class Subscriptions:
    """Opens subscriptions."""

    def __init__(self, planner: Planner, live: LiveQuestions) -> None:
        self._planner, self._live = planner, live

    @asynccontextmanager
    async def open(self, wish: Wish) -> AsyncIterator[Subscription]:
        """The question is planned once with the caller's rights, so that what may not be read is refused; from then on the
        service follows it.

        Raises FieldInvalid, FieldRequired, SqlInvalid, TableNotFound, TokenMismatch, TokenUnsupported."""
        if wish.mode is Mode.UPSERT and not wish.key_columns:
            raise FieldRequired("UPSERT needs the columns that name a row", field="key_columns")
        if wish.resume_token:
            token = tokens.decode(wish.resume_token, wish.fingerprint)
            token.versions(await self._planner.tables_of(wish.live.question))
        schema = await self._planner.columns(await self._planner.plan(wish.live.question))
        live = replace(wish.live, max_rows=wish.live.max_rows or DEFAULT_MAX_ROWS)
        async with self._live.follow(live, wish.min_interval_s) as computation:
            yield Subscription(wish, computation, schema)
