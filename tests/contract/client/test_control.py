"""Resources, leases and what depends on them, through the client, against the real storage."""

from __future__ import annotations

import asyncio
import contextlib

import pyarrow as pa
import pytest

from millrace import errors
from millrace.client import Client
from millrace.client.append import Appender, AppendOptions
from millrace.client.leases import LeaseKeeper
from millrace.client.resources import HeldBy, Resources
from millrace.client.watch import Deleted, Put, Synced, watch_resources
from millrace.server.testing import Served
from millrace.types.v1 import run_pb2

NAME = "namespaces/default/runs/r1"
SPEC = run_pb2.RunSpec(subject="a")


async def test_resources_are_put_listed_updated_deleted(client: Client) -> None:
    resources = Resources(client.connection("storage"))
    stored, created = await resources.put(NAME, SPEC)
    assert created
    with pytest.raises(errors.ResourceExists):
        await resources.put(NAME, SPEC)
    with pytest.raises(errors.EtagMismatch):
        await resources.put(NAME, SPEC, etag="other")
    changed, created = await resources.put(NAME, run_pb2.RunSpec(subject="b"), etag=stored.etag)
    assert not created
    assert changed.generation == 2
    await resources.update_status(
        NAME, run_pb2.Run(name="x"), events=[run_pb2.RunWarning(message="1"), run_pb2.RunWarning(message="2")]
    )
    found, events = await resources.get_with_events(NAME, after=1)
    assert [event.sequence for event in events] == [2]
    assert found.status.Is(run_pb2.Run.DESCRIPTOR)
    assert [one.name async for one in resources.list("namespaces/default/runs")] == [NAME]
    await resources.delete(NAME)
    with pytest.raises(errors.RunNotFound):
        await resources.get(NAME)


async def test_a_repeated_request_id_gives_the_first_answer(client: Client) -> None:
    resources = Resources(client.connection("storage"))
    first, _ = await resources.put(NAME, SPEC, request_id="one")
    again, _ = await resources.put(NAME, SPEC, request_id="one")
    assert again == first
    with pytest.raises(errors.RequestIdReused):
        await resources.put(NAME, run_pb2.RunSpec(subject="other"), request_id="one")


async def test_resources_are_watched(client: Client) -> None:
    resources = Resources(client.connection("storage"))
    await resources.put(NAME, SPEC)
    seen: list[str] = []
    async with contextlib.aclosing(watch_resources(client.connection("storage"), ["namespaces/-/runs"])) as changes:
        async for change in changes:
            match change:
                case Put(resource):
                    seen.append(f"put {resource.name}")
                case Deleted(resource):
                    seen.append(f"deleted {resource.name}")
                    break
                case Synced():
                    seen.append("synced")
                    await resources.delete(NAME)
    assert seen == [f"put {NAME}", "synced", f"deleted {NAME}"]


async def test_a_lease_is_held_by_one_and_its_epoch_rises(client: Client) -> None:
    connection = client.connection("storage")
    async with LeaseKeeper(connection, "sources/default/a", "one", ttl_s=5) as first:
        assert first.held
        with pytest.raises(errors.LeaseHeld):
            await LeaseKeeper(connection, "sources/default/a", "two", ttl_s=5).acquire()
        epoch = first.epoch
    assert not first.held
    async with LeaseKeeper(connection, "sources/default/a", "two", ttl_s=5) as second:
        assert second.epoch > epoch


async def test_a_writer_under_a_lease_ends_with_it(client: Client, storage: Served) -> None:
    connection = client.connection("storage")
    await client.create_table("t", {"id": "int64"})
    resources = Resources(connection)
    await resources.put(NAME, SPEC)
    now = 0.0
    lost: list[errors.MillraceError] = []
    keeper = LeaseKeeper(connection, "sources/default/a", "one", ttl_s=5, on_lost=lost.append, clock=lambda: now)
    epoch = await keeper.acquire()
    options = AppendOptions(table=client.full_name("t"), writer_id="loader/a", epoch=epoch, lease=keeper.name)
    writer = Appender(connection, options)
    await writer.open()
    await writer.append(pa.record_batch({"id": [1]}))
    await writer.flush()
    now = 3.4  # two thirds of the ttl went by unnoticed, as after SIGSTOP
    assert not keeper.held
    with pytest.raises(errors.LeaseLost):
        keeper.check()
    await connection_release(client, keeper.name, epoch)
    async with LeaseKeeper(connection, keeper.name, "two", ttl_s=5) as other:
        assert other.epoch > epoch
        await writer.append(pa.record_batch({"id": [2]}))
        with pytest.raises((errors.LeaseLost, errors.WriterFenced)):
            await writer.flush()
        with pytest.raises(errors.LeaseLost):
            await resources.update_status(NAME, held=HeldBy(keeper.name, epoch))
    await writer.aclose()
    await keeper.release()
    assert (await client.table("t").read().to_arrow()).column("id").to_pylist() == [1]


async def connection_release(client: Client, name: str, epoch: int) -> None:
    """As if the lease had run out."""
    from millrace.storage.v1 import leases_pb2, leases_pb2_grpc

    connection = client.connection("storage")
    stub = leases_pb2_grpc.LeaseServiceStub(connection.channel)
    await stub.ReleaseLease(leases_pb2.ReleaseLeaseRequest(name=name, epoch=epoch), metadata=connection.metadata())


async def test_a_lost_lease_is_told(client: Client) -> None:
    connection = client.connection("storage")
    lost: list[errors.MillraceError] = []
    keeper = LeaseKeeper(connection, "sources/default/a", "one", ttl_s=5, on_lost=lost.append)
    epoch = await keeper.acquire()
    await connection_release(client, keeper.name, epoch)
    await asyncio.wait_for(keeper.lost(), 5)
    assert not keeper.held
    assert [type(error) for error in lost] == [errors.LeaseLost]
    await keeper.release()


async def test_a_wrong_token_is_refused(storage: Served) -> None:
    async with Client.find(storage=storage.target, token="wrong") as stranger:
        with pytest.raises(errors.TokenInvalid):
            await stranger.list_tables()
        with pytest.raises(errors.TokenInvalid):
            await stranger.table("t").append({"id": [1]})
