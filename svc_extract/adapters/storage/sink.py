"""Appends to storage through the client's exactly-once writer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import pyarrow as pa

from millrace.client.append import Appender, AppendOptions
from millrace.client.channel import Connection
from millrace.client.ledger import Reread
from millrace.errors import OffsetGap
from millrace.storage.v1 import frames_pb2
from svc_extract.convert.positions import letter_to, position_from, position_to
from svc_extract.ports import AppendTarget, Committed, DeadLetter, Position, SinkOpened


class StorageSink:
    def __init__(self, as_extract: Connection) -> None:
        self._connection = as_extract

    @asynccontextmanager
    async def open(
        self, target: AppendTarget, on_commit: Callable[[Committed], None]
    ) -> AsyncIterator[StorageAppender]:
        options = AppendOptions(
            table=target.table,
            table_uid=target.table_uid,
            writer_id=target.writer_id,
            epoch=target.epoch,
            lease=target.lease,
            dead_letter=target.dead_letter,
            commit_interval_s=None if target.commit_interval_ms is None else target.commit_interval_ms / 1000,
        )
        writer = Appender(self._connection, options, on_commit=lambda done: on_commit(_committed(done)))
        try:
            with _rereading():
                opened = await writer.open()
            position = position_from(opened.position) if opened.position is not None else None
            yield StorageAppender(
                writer, SinkOpened(opened.epoch, opened.next_offset, position, opened.schema, opened.table_uid)
            )
        finally:
            await writer.aclose()


class StorageAppender:
    def __init__(self, writer: Appender, opened: SinkOpened) -> None:
        self._writer, self.opened = writer, opened

    async def append(self, rows: pa.RecordBatch, dead_letters: Sequence[DeadLetter], position: Position | None) -> None:
        with _rereading():
            await self._writer.append(
                rows, position=position_to(position), dead_letters=[letter_to(one) for one in dead_letters]
            )

    async def flush(self) -> None:
        with _rereading():
            await self._writer.flush()

    async def finish(self) -> None:
        with _rereading():
            await self._writer.finish()


@contextmanager
def _rereading() -> Iterator[None]:
    """Rows that are no longer held come from the source again: the session starts anew, under the next epoch."""
    try:
        yield
    except Reread as error:
        raise OffsetGap(str(error), metadata={"next_offset": str(error.next_offset)}) from error


def _committed(done: frames_pb2.Committed) -> Committed:
    return Committed(
        done.next_offset,
        done.version,
        done.commit_time.seconds * 1_000_000 + done.commit_time.nanos // 1000,
        done.rows_written,
        done.rows_dead_lettered,
        position_from(done.position) if done.HasField("position") else None,
    )
