"""Age, drain, limits, slow clients: how streams end that would go on."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from pathlib import Path

import grpc
import pytest

from millrace.admin.v1 import admin_pb2, admin_pb2_grpc
from millrace.server.testing import Served, running
from millrace.storage.v1 import storage_pb2 as pb
from millrace.storage.v1 import storage_pb2_grpc as pb_grpc
from tests.contract.server.test_errors import failure, failure_of_ended
from tests.contract.server.toy import Toy, batch, in_band, named, opened, reason_of, toy_spec


async def last_error(call: grpc.aio.UnaryStreamCall) -> grpc.aio.AioRpcError:
    async def read_all() -> None:
        while await call.read() is not grpc.aio.EOF:
            pass

    return await failure(read_all())


@pytest.mark.parametrize("name", ["endless", "idle", "quiet"])
async def test_a_server_stream_ages_out(name: str) -> None:
    toy = Toy()
    async with running(toy_spec(toy), stream_age_s=0.4, drain_grace_s=0.6) as served:
        began = time.monotonic()
        error = await last_error(pb_grpc.StorageServiceStub(served.channel()).ReadRows(named(name)))
        assert error.code() is grpc.StatusCode.ABORTED
        found = reason_of(error)
        assert (found.reason, found.retry_after_ms) == ("STREAM_AGED_OUT", 0)
        assert 0.3 < time.monotonic() - began < 2
        assert toy.log[-1] == "cleaned up"


async def test_a_bidi_stream_ages_out_after_its_commit() -> None:
    async with running(toy_spec(), stream_age_s=0.3) as served:
        call = pb_grpc.StorageServiceStub(served.channel()).AppendRows()
        await call.write(opened("t"))
        offset, kinds = 0, []
        while not kinds or kinds[-1] != "error":
            message = await call.read()
            kinds.append(message.WhichOneof("message"))
            if kinds[-1] != "error":
                await call.write(batch(offset))
                offset += 1
                await asyncio.sleep(0.02)
        assert in_band(message.error).reason == "STREAM_AGED_OUT"
        assert kinds[-2] == "committed"
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.ABORTED


async def test_a_bidi_servicer_that_does_not_listen_is_ended_all_the_same() -> None:
    toy = Toy()
    async with running(toy_spec(toy), stream_age_s=0.2, drain_grace_s=0.6) as served:
        call = pb_grpc.StorageServiceStub(served.channel()).AppendRows()
        await call.write(opened("stubborn"))
        assert (await call.read()).WhichOneof("message") == "opened"
        assert in_band((await call.read()).error).reason == "STREAM_AGED_OUT"
        await call.done_writing()
        assert toy.log == ["cancelled", "cleaned up"]


async def test_drain_ends_streams_lets_calls_finish_and_stops(served: Served) -> None:
    stub = pb_grpc.StorageServiceStub(served.channel())
    reads = [stub.ReadRows(named(name)) for name in ("endless", "idle", "idle")]
    for read in reads:
        await read.read()
    append = stub.AppendRows()
    await append.write(opened("t"))
    await append.read()
    began = time.monotonic()
    drained = await admin_pb2_grpc.AdminServiceStub(served.channel()).Drain(admin_pb2.DrainRequest())
    assert drained.open_streams == 4
    for read in reads:
        found = reason_of(await last_error(read))
        assert (found.reason, found.retry_after_ms) == ("STREAM_DRAINING", 0)
    assert in_band((await append.read()).error).reason == "STREAM_DRAINING"
    await append.done_writing()
    await served.serving.ended.wait()
    assert time.monotonic() - began < 3


async def test_health_says_not_serving_while_draining(served: Served) -> None:
    channel = served.channel()
    check = channel.unary_unary("/grpc.health.v1.Health/Check")
    append = pb_grpc.StorageServiceStub(channel).AppendRows()
    await append.write(opened("stubborn"))
    await append.read()
    for name in ("", "readiness", "startup", "liveness", "millrace.storage.v1.StorageService"):
        assert await check(bytes([0x0A, len(name)]) + name.encode()) == b"\x08\x01"
    await admin_pb2_grpc.AdminServiceStub(channel).Drain(admin_pb2.DrainRequest())
    assert served.serving.state()[0] == admin_pb2.SERVING_STATE_DRAINING
    append.cancel()
    await served.serving.ended.wait()


async def test_too_many_streams_are_refused_with_a_pause() -> None:
    async with running(toy_spec(), max_streams=3) as served:
        stub = pb_grpc.StorageServiceStub(served.channel())
        held = [stub.ReadRows(named("idle")) for _ in range(3)]
        for read in held:
            await read.read()
        error = await failure(stub.ReadRows(named("t")).read())
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        found = reason_of(error)
        assert (found.reason, found.retry_after_ms) == ("TOO_MANY_STREAMS", 1000)
        held[0].cancel()
        async with asyncio.timeout(5):
            while served.serving.streams.total() > 2:
                await asyncio.sleep(0.01)
        assert [m async for m in stub.ReadRows(named("t"))][-1].HasField("end")


async def test_a_slow_client_holds_the_servicer_back(served: Served, toy: Toy) -> None:
    call = pb_grpc.StorageServiceStub(served.channel()).ReadRows(named("fat"))
    await call.read()
    sent, quiet_since = 0, time.monotonic()
    while time.monotonic() - quiet_since < 0.5:
        await asyncio.sleep(0.02)
        if len(toy.log) != sent:
            sent, quiet_since = len(toy.log), time.monotonic()
            assert sent < 20, "messages of 1 MB that nobody reads"
    call.cancel()


async def test_a_stream_whose_client_is_stuck_still_ends() -> None:
    """The message under way never leaves: after the grace the servicer is ended, and the client hears why once it wakes up."""
    toy = Toy()
    async with running(toy_spec(toy), stream_age_s=0.3, drain_grace_s=1.0) as served:
        call = pb_grpc.StorageServiceStub(served.channel()).ReadRows(named("fat"))
        await call.read()
        async with asyncio.timeout(5):
            while served.serving.streams.total():
                await asyncio.sleep(0.02)
        await asyncio.sleep(1.0)
        assert reason_of(await last_error(call)).reason == "STREAM_AGED_OUT"


async def test_two_hundred_idle_streams_leave_room_for_calls(served: Served) -> None:
    stub = pb_grpc.StorageServiceStub(served.channel())
    watches = [stub.WatchTable(pb.WatchTableRequest(table="idle")) for _ in range(200)]
    for watch in watches:
        await watch.read()
    took = []
    for _ in range(5):
        began = time.monotonic()
        await stub.GetTable(pb.GetTableRequest(name="t"))
        took.append(time.monotonic() - began)
    assert min(took) < 0.1
    for watch in watches:
        watch.cancel()


async def test_reading_may_be_cancelled_without_losing_a_message(served: Served) -> None:
    """The servicer's side of it is in tests/unit/server; here the stream goes on after an interrupted read."""
    call = pb_grpc.StorageServiceStub(served.channel()).AppendRows()
    await call.write(opened("t"))
    await call.read()
    for offset in range(50):
        await call.write(batch(offset))
    seen = [(await call.read()).committed.next_offset for _ in range(50)]
    assert seen == list(range(1, 51))
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    with pytest.raises(grpc.aio.AioRpcError):
        await failure_of_ended(call)


HALF_OPEN = """
import sys, grpc
from millrace.storage.v1 import storage_pb2 as pb, storage_pb2_grpc as pb_grpc
from tests.contract.server.toy import named
stub = pb_grpc.StorageServiceStub(grpc.insecure_channel(sys.argv[1]))
for message in stub.ReadRows(named("idle"), metadata=(("authorization", "Bearer local-token"),)):
    print("read", flush=True)
"""


async def test_a_client_that_froze_is_cut_off() -> None:
    """Its kernel still acknowledges bytes; only the missing answer to a ping tells."""
    toy = Toy()
    async with running(toy_spec(toy), keepalive_s=1.0) as served:
        client = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            HALF_OPEN,
            served.target,
            stdout=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parents[3],
        )
        try:
            assert client.stdout is not None
            await client.stdout.readline()
            client.send_signal(signal.SIGSTOP)
            async with asyncio.timeout(20):
                while served.serving.streams.total() or toy.log != ["cancelled", "cleaned up"]:
                    await asyncio.sleep(0.05)
        finally:
            client.kill()
            await client.wait()
