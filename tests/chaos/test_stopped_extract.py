"""extract is stopped past its lease, a second one takes over, the first wakes up: it is refused, and no row is there twice."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from millrace import errors
from millrace.client.append import Appender, AppendOptions
from millrace.client.channel import Connection
from millrace.client.tables import Table, create_table
from millrace.extract.v1 import extract_pb2, extract_pb2_grpc
from tests.chaos.episode import SOURCE, insist, refusal
from tests.chaos.fleet import Fleet, Service
from tests.chaos.sources import SCHEMA, TABLE, CsvSource, push_rows

NAME = SOURCE.format("file")


async def until(true: Callable[[], Awaitable[bool]], what: str, limit_s: float = 40.0) -> None:
    ends = time.monotonic() + limit_s
    while not await true():
        assert time.monotonic() < ends, f"not within {limit_s:g} s: {what}"
        await asyncio.sleep(0.1)


async def status(connection: Connection) -> extract_pb2.SourceStatus:
    stub: Any = extract_pb2_grpc.ExtractServiceStub(connection.channel)
    return (await insist(connection, stub.GetSource, extract_pb2.GetSourceRequest(name=NAME))).source.status


async def put_source(connection: Connection, pattern: str) -> None:
    spec = extract_pb2.SourceSpec(table=TABLE, continuous=True)
    spec.files.path = pattern
    spec.files.poll_interval.FromMilliseconds(100)
    stub: Any = extract_pb2_grpc.ExtractServiceStub(connection.channel)
    request = extract_pb2.PutSourceRequest(request_id="put", source=extract_pb2.Source(name=NAME, spec=spec))
    await insist(connection, stub.PutSource, request)


async def works_above(connection: Connection, epoch: int) -> bool:
    found = await status(connection)
    return found.epoch > epoch and found.progress.version > 0


async def refused_as(connection: Connection, epoch: int) -> type[errors.MillraceError]:
    """What storage answers to the writer of an epoch that is over, whatever its process believes."""
    lease = f"sources/default/{NAME.rsplit('/', 1)[1]}"
    options = AppendOptions(table=TABLE, writer_id=lease, epoch=epoch, lease=lease)
    with pytest.raises((errors.WriterFenced, errors.LeaseLost)) as refused:
        async with Appender(connection, options) as writer:
            await writer.append(push_rows(0, 5))
    return refused.type


@pytest.mark.timeout(170)
async def test_the_old_one_is_refused_and_no_row_is_there_twice(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "home", random.Random(4))
    await fleet.start_proxies()
    first, second = fleet.extract, fleet.another_extract("extract-2")
    source, stop = CsvSource(fleet.files, random.Random(4), rows_per_s=500, planted=False), asyncio.Event()
    growing = asyncio.create_task(source.run(stop))
    try:
        fleet.storage.spawn()
        first.spawn()
        await asyncio.gather(fleet.storage.ready(), first.ready())
        storage, to_first, to_second = (fleet.connect(one.target) for one in (fleet.storage, first, second))
        await create_table(storage, TABLE, SCHEMA, event_time_column="at")
        await put_source(to_first, str(fleet.files / "*.csv"))
        await until(lambda: works_above(to_first, 0), "the first one works")
        epoch = (await status(to_first)).epoch

        first.running.send_signal(signal.SIGSTOP)
        second.spawn()
        assert await second.ready()
        await until(lambda: works_above(to_second, epoch), "the second one has taken over")
        first.running.send_signal(signal.SIGCONT)

        await until(lambda: told(first), "the first one was refused")
        assert refusal(first) in ("WRITER_FENCED", "LEASE_LOST")
        extract_as_service = Connection(storage.channel, fleet.home.token("extract").read_text().strip)
        assert await refused_as(extract_as_service, epoch) in (errors.WriterFenced, errors.LeaseLost)

        stop.set()
        await growing
        table = Table(storage, TABLE)
        await until(lambda: holds(table, source.account.given), "everything is there")
        for service in (first, second):  # both drain: nothing is under way any more
            await service.stop()
        ids = (await table.read(columns=["id"]).to_arrow()).column("id").to_pylist()
        assert sorted(ids) == list(range(source.account.given))
    finally:
        stop.set()
        await growing
        await fleet.close()


async def told(service: Service) -> bool:
    return bool(refusal(service))


async def holds(table: Table, rows: int) -> bool:
    return (await table.info()).row_count >= rows
