"""Output tables: the exactly-once writer of the client's core, under the transform's lease."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

import pyarrow as pa

from millrace.client.append import Appender, AppendOptions
from millrace.client.channel import Connection
from millrace.errors import MillraceError
from millrace.types.v1 import types_pb2
from svc_transform.ports import Recipe, TableFacts, Written

FINISH_LIMIT_S = 2.0
COMMIT_INTERVAL_S = 0.1
"""Rows of a run wait for nothing: the run itself gathered what was there."""


class StorageOutputs:
    """The Outputs port."""

    def __init__(self, storage: Connection) -> None:
        self._connection = storage

    async def open(self, table: TableFacts, recipe: Recipe, epoch: int) -> StorageOutput:
        options = AppendOptions(
            table=table.name,
            writer_id=recipe.lease,
            table_uid=table.uid,
            epoch=epoch,
            lease=recipe.lease,
            dead_letter=not recipe.fail_on_bad_row,
            commit_interval_s=COMMIT_INTERVAL_S,
        )
        appender = Appender(self._connection, options)
        try:
            opened = await appender.open()
        except BaseException:
            await appender.aclose()
            raise
        position = {} if opened.position is None else dict(opened.position.positions)
        return StorageOutput(appender, opened.table_uid, position, opened.next_offset)


class StorageOutput:
    """One open output."""

    def __init__(self, appender: Appender, uid: str, position: Mapping[str, str], next_offset: int) -> None:
        self._appender, self.uid, self.position, self.next_offset = appender, uid, position, next_offset
        self._clean = True

    @property
    def written(self) -> Written:
        totals = self._appender.totals
        return Written(totals.rows_written, totals.rows_dead_lettered, totals.version)

    async def write(self, rows: pa.RecordBatch, position: Mapping[str, str] | None = None) -> None:
        self._clean = False
        await self._appender.append(rows, position=None if position is None else types_pb2.Position(positions=position))

    async def commit(self) -> Written:
        self._clean = False
        await self._appender.finish()
        return self.written

    async def close(self) -> None:
        if self._clean:  # nothing was written: the stream is ended in order, not abandoned
            self._clean = False
            with contextlib.suppress(MillraceError, TimeoutError):
                async with asyncio.timeout(FINISH_LIMIT_S):
                    await self._appender.finish()
        await self._appender.aclose()
