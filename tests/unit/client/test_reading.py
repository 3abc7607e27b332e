"""Reading and watching, against a storage that breaks."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pyarrow as pa
import pytest
from google.rpc import code_pb2
from grpc import StatusCode
from grpc.aio import AioRpcError, Metadata

from millrace import errors
from millrace.client.channel import Connection, open_channel
from millrace.client.read import TableRead
from millrace.client.status import Refused, Unreachable
from millrace.client.watch import watch_table
from millrace.storage.v1 import storage_pb2
from millrace.types.v1 import types_pb2
from tests.unit.client.scripted import TABLE, Cutter, Faults, Storage, numbered, rich, storage_at


@pytest.fixture(autouse=True)
def _quick_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millrace.client.resume.FIRST_PAUSE_S", 0.002)
    monkeypatch.setattr("millrace.client.resume.LONGEST_PAUSE_S", 0.02)


def filled(faults: Faults | None = None, *, batches: int = 60, rows: int = 7, width: int = 10) -> Storage:
    storage = Storage(faults)
    storage.rows = [numbered(at * rows, rows, width) for at in range(batches)]
    storage.version = batches
    return storage


@asynccontextmanager
async def connected(storage: Storage) -> AsyncIterator[Connection]:
    async with storage_at(storage) as target, open_channel(target) as channel:
        yield Connection(channel)


def read(connection: Connection, parallel: int = 1, compression: int = 0) -> TableRead:
    request = storage_pb2.PlanReadRequest(table=TABLE)
    return TableRead(connection, request, parallel=parallel, compression=compression)


def digest(table: pa.Table) -> str:
    """SHA-256 over the rows as one IPC table."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return hashlib.sha256(sink.getvalue()).hexdigest()


async def test_a_read_cut_a_hundred_times_gives_the_same_bytes() -> None:
    uncut = filled(batches=400)
    async with connected(uncut) as connection, read(connection) as rows:
        want = digest(await rows.to_arrow())
    broken = filled(Faults(seed=5, rate=0.3), batches=400)
    async with connected(broken) as connection, read(connection) as rows:
        assert digest(await rows.to_arrow()) == want
    assert sum(broken.faults.kinds.values()) >= 100, broken.faults.kinds


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("parallel", [1, 3])
async def test_no_row_is_lost_or_doubled(seed: int, parallel: int) -> None:
    storage = filled(Faults(seed, rate=0.2))
    compression = (types_pb2.COMPRESSION_NONE, types_pb2.COMPRESSION_LZ4, types_pb2.COMPRESSION_ZSTD)[seed % 3]
    async with connected(storage) as connection, read(connection, parallel, compression) as rows:
        table = await rows.to_arrow()
    assert sorted(table.column("n").to_pylist()) == list(range(420))


async def test_cut_connections_are_resumed() -> None:
    storage = filled(batches=50, rows=200, width=1000)
    async with (
        storage_at(storage) as target,
        Cutter(int(target.rpartition(":")[2])) as cutter,
        open_channel(f"127.0.0.1:{cutter.port}") as channel,
        read(Connection(channel)) as rows,
    ):
        seen: list[int] = []
        async for batch in rows:
            seen += batch.column("n").to_pylist()
            if len(seen) % 1400 == 0:
                cutter.cut()
                await asyncio.sleep(0.01)
    assert seen == list(range(10_000))


async def test_missing_rows_are_an_error_not_a_short_answer() -> None:
    class Short(Storage):
        async def _read(self, request: object, context: object) -> None:
            gone, self.rows = self.rows[-1], self.rows[:-1]
            end = storage_pb2.ReadRowsResponse(
                end=storage_pb2.ReadEnd(row_count=sum(b.num_rows for b in self.rows) + gone.num_rows)
            )
            await context.write(end)  # type: ignore[attr-defined]

    storage = Short()
    storage.rows = [numbered(0, 5)]
    async with connected(storage) as connection, read(connection) as rows:
        with pytest.raises(errors.Unexpected, match="5 rows, 0 came"):
            await rows.to_arrow()


async def test_a_slow_consumer_bounds_what_is_buffered() -> None:
    storage = filled(batches=200, rows=10, width=100_000)  # 200 MB
    async with connected(storage) as connection, read(connection) as rows:
        await anext(aiter(rows))
        await asyncio.sleep(0.5)
        assert rows._queue._bytes <= 17 * 1024 * 1024


async def test_leaving_early_cancels_the_readers() -> None:
    storage = filled(batches=500, rows=10, width=100_000)
    async with connected(storage) as connection:
        async with read(connection, parallel=3) as rows:
            await anext(aiter(rows))
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("read")]


async def test_a_watch_tells_each_version_once_across_breaks() -> None:
    storage = Storage(Faults(seed=2, rate=0.1))
    seen: list[int] = []
    async with connected(storage) as connection:
        request = storage_pb2.WatchTableRequest(table=TABLE, after_version=0)
        async with contextlib.aclosing(watch_table(connection, request)) as changes:
            async for change in changes:
                if isinstance(change, storage_pb2.TableVersion):
                    seen.append(change.number)
                if len(seen) == 50:
                    break
                if not seen or seen[-1] == storage.version:
                    storage.version += 1
    assert seen == list(range(1, 51))
    assert sum(storage.faults.kinds.values()) >= 3


async def test_what_is_no_break_is_not_repeated() -> None:
    async with connected(Storage()) as connection:
        from millrace.analysis.v1 import analysis_pb2
        from millrace.client.query import QueryRead

        with pytest.raises(Refused) as refused:
            await QueryRead(connection, analysis_pb2.QueryRequest()).__aenter__()
    assert refused.value.metadata["grpc_code"] == "UNIMPLEMENTED"


async def test_unary_calls_are_repeated_until_their_deadline() -> None:
    from millrace.client.channel import call
    from millrace.storage.v1 import storage_pb2_grpc

    async with open_channel("127.0.0.1:1") as channel:
        stub = storage_pb2_grpc.StorageServiceStub(channel)
        connection = Connection(channel)
        with pytest.raises(Unreachable):
            await call(
                connection,
                stub.GetTable,
                storage_pb2.GetTableRequest(),
                deadline_s=0.3,
                answer=storage_pb2.GetTableResponse,
            )


async def test_a_deadline_that_ends_the_repeats_says_what_kept_failing() -> None:
    from millrace.client.channel import call

    tries = 0

    async def failing(request: object, *, metadata: object, timeout: float) -> None:
        nonlocal tries
        tries += 1
        if tries == 3:  # what was left of the time is over in the middle of a call
            raise AioRpcError(StatusCode.DEADLINE_EXCEEDED, Metadata(), Metadata())
        status = rich(code_pb2.UNAVAILABLE, "STORE_UNAVAILABLE", retry_ms=1)
        details = Metadata(("grpc-status-details-bin", status.SerializeToString()))
        raise AioRpcError(StatusCode.UNAVAILABLE, Metadata(), details)

    async with open_channel("127.0.0.1:1") as channel:
        with pytest.raises(errors.StoreUnavailable) as failed:
            await call(Connection(channel), failing, object(), answer=storage_pb2.GetTableResponse)
    assert (tries, failed.value.retry_after_ms) == (3, 1)
