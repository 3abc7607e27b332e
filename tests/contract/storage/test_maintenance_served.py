"""Maintenance over the wire: runs are stored, attached to, replayed, cancelled; writers are listed and forgotten."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest

from millrace.server.runtime import ServiceSpec
from millrace.server.testing import Served, running
from millrace.storage.v1 import (
    frames_pb2,
    leases_pb2,
    leases_pb2_grpc,
    maintenance_pb2,
    storage_pb2,
    storage_pb2_grpc,
)
from millrace.types.v1 import run_pb2, types_pb2
from millrace.wire.batch import batch_to_proto
from svc_storage.__main__ import compose
from svc_storage.config import Settings
from tests.contract.storage.backends import NAME, rows
from tests.contract.storage.test_served import fill, read, reason, served, storage

__all__ = ["served", "storage"]


async def events(call: Any) -> list[run_pb2.RunEvent]:
    found = []
    while (response := await call.read()) is not grpc.aio.EOF:
        found.append(response.event)
    return found


def of(kind: str, found: list[run_pb2.RunEvent]) -> list[run_pb2.RunEvent]:
    return [event for event in found if event.WhichOneof("event") == kind]


def report(found: list[run_pb2.RunEvent]) -> run_pb2.TableReport:
    assert found[-1].finished.state == run_pb2.RUN_STATE_SUCCEEDED, found[-1]
    return of("report", found)[0].report


async def more(storage: Any, offset: int, count: int) -> int:
    """Ten rows by the same writer; the version that they are."""
    call = storage.AppendRows()
    await call.write(storage_pb2.AppendRowsRequest(open=storage_pb2.AppendOpen(table=NAME, writer_id="w")))
    await call.read()
    batch = frames_pb2.AppendBatch(offset=offset, batch=batch_to_proto(rows(count, offset)))
    await call.write(storage_pb2.AppendRowsRequest(batch=batch))
    await call.write(storage_pb2.AppendRowsRequest(finish=frames_pb2.Finish()))
    await call.done_writing()
    while (answer := await call.read()) is not grpc.aio.EOF:
        last = answer
    return int(last.done.version)


def key(value: int) -> types_pb2.Predicate:
    compare = types_pb2.Comparison(column="id", op=types_pb2.COMPARE_OP_EQ, value=types_pb2.Value(int=value))
    return types_pb2.Predicate(compare=compare)


async def rows_now(storage: Any) -> int:
    found, _ = await read(storage, storage_pb2.ReadRowsRequest(read=storage_pb2.PlanReadRequest(table=NAME)))
    return int(found.num_rows)


async def test_a_run_is_stored_attached_to_and_replayed(storage: Any) -> None:
    await fill(storage, 10)
    await more(storage, 10, 10)
    await more(storage, 20, 10)
    request = maintenance_pb2.CompactTableRequest(table=NAME, request_id="c1")
    found = await events(storage.CompactTable(request))
    assert report(found).files_rewritten == 3
    assert (await storage.GetTable(storage_pb2.GetTableRequest(name=NAME))).table.file_count == 1
    stored = [event for event in found if event.sequence]
    assert [event.sequence for event in stored] == list(range(1, len(stored) + 1))
    again = await events(storage.CompactTable(request))
    assert [event.sequence for event in again if event.sequence] == [event.sequence for event in stored]
    request.after_sequence = len(stored) - 1
    rest = await events(storage.CompactTable(request))
    assert [event.sequence for event in rest if event.sequence] == [len(stored)]
    run = (await storage.GetRun(maintenance_pb2.GetRunRequest(name="namespaces/default/runs/c1"))).run
    assert (run.kind, run.state, run.subject) == (run_pb2.RUN_KIND_COMPACT, run_pb2.RUN_STATE_SUCCEEDED, NAME)
    listed = await storage.ListRuns(maintenance_pb2.ListRunsRequest(table=NAME))
    assert [one.name for one in listed.runs] == [run.name]
    other = maintenance_pb2.ExpireVersionsRequest(table=NAME, request_id="c1", keep_versions=1)
    with pytest.raises(grpc.aio.AioRpcError) as reused:
        await events(storage.ExpireVersions(other))
    assert reason(reused.value) == "REQUEST_ID_REUSED"


async def test_restore_expire_and_erase(storage: Any) -> None:
    await fill(storage, 10)
    last = await more(storage, 10, 10)
    restored = await events(
        storage.RestoreTable(maintenance_pb2.RestoreTableRequest(table=NAME, request_id="r", version=2))
    )
    assert report(restored).version == last + 1
    assert await rows_now(storage) == 10
    erased = await events(
        storage.EraseRows(maintenance_pb2.EraseRowsRequest(table=NAME, request_id="e", predicate=key(3)))
    )
    told = report(erased)
    assert (told.rows_erased, told.verified, told.gone_time.seconds > 0) == (1, True, True)
    assert await rows_now(storage) == 9
    kept = await events(
        storage.ExpireVersions(maintenance_pb2.ExpireVersionsRequest(table=NAME, request_id="x", keep_versions=1))
    )
    assert report(kept).oldest_version == told.oldest_version
    with pytest.raises(grpc.aio.AioRpcError) as expired:
        await read(storage, storage_pb2.ReadRowsRequest(read=storage_pb2.PlanReadRequest(table=NAME, version=2)))
    assert reason(expired.value) == "VERSION_EXPIRED"
    checked = await events(storage.CheckTable(maintenance_pb2.CheckTableRequest(table=NAME, request_id="k")))
    assert report(checked).verified, of("fault", checked)


@pytest.mark.parametrize(
    ("method", "request_", "why"),
    [
        ("EraseRows", maintenance_pb2.EraseRowsRequest(predicate=types_pb2.Predicate(is_null="nope")), "FIELD_INVALID"),
        (
            "EraseRows",
            maintenance_pb2.EraseRowsRequest(
                keys=maintenance_pb2.EraseKeys(keys=[maintenance_pb2.EraseKey(values=[types_pb2.Value(int=1)])])
            ),
            "NO_PRIMARY_KEY",
        ),
        ("RestoreTable", maintenance_pb2.RestoreTableRequest(version=99), "VERSION_IN_FUTURE"),
        ("ExpireVersions", maintenance_pb2.ExpireVersionsRequest(), "FIELD_REQUIRED"),
        ("CheckTable", maintenance_pb2.CheckTableRequest(sample=2), "FIELD_INVALID"),
        ("CompactTable", maintenance_pb2.CompactTableRequest(request_id="a/b"), "FIELD_INVALID"),
        ("CompactTable", maintenance_pb2.CompactTableRequest(table=NAME + "x"), "TABLE_NOT_FOUND"),
    ],
)
async def test_what_cannot_be_is_said_before_a_run_is_made(storage: Any, method: str, request_: Any, why: str) -> None:
    await fill(storage, 10)
    asked = type(request_)(table=NAME, request_id="r")
    asked.MergeFrom(request_)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await events(getattr(storage, method)(asked))
    assert reason(refused.value) == why
    with pytest.raises(grpc.aio.AioRpcError) as none:
        await storage.GetRun(maintenance_pb2.GetRunRequest(name="namespaces/default/runs/r"))
    assert reason(none.value) == "RUN_NOT_FOUND"


async def test_runs_of_one_table_follow_each_other_and_one_is_cancelled(served: Served, storage: Any) -> None:
    await fill(storage, 10)
    leases = leases_pb2_grpc.LeaseServiceStub(served.channel())
    held = leases_pb2.AcquireLeaseRequest(request_id="l", name=f"maintenance/{NAME}", holder="a test")
    held.ttl.FromSeconds(5)
    lease = (await leases.AcquireLease(held)).lease
    call = storage.CompactTable(maintenance_pb2.CompactTableRequest(table=NAME, request_id="c"))
    assert (await call.read()).event.WhichOneof("event") == "heartbeat"
    name = "namespaces/default/runs/c"
    cancelled = await storage.CancelRun(maintenance_pb2.CancelRunRequest(request_id="x", name=name))
    assert cancelled.run.state == run_pb2.RUN_STATE_PENDING
    await leases.ReleaseLease(leases_pb2.ReleaseLeaseRequest(name=lease.name, epoch=lease.epoch))
    found = await events(call)
    assert found[-1].finished.state == run_pb2.RUN_STATE_CANCELLED
    after = await events(storage.CompactTable(maintenance_pb2.CompactTableRequest(table=NAME, request_id="d")))
    assert report(after)


async def test_writers_are_listed_and_forgotten(storage: Any) -> None:
    await fill(storage, 10)
    last = await more(storage, 10, 5)
    listed = (await storage.ListWriters(maintenance_pb2.ListWritersRequest(table=NAME))).writers
    (writer,) = listed
    assert (writer.writer_id, writer.next_offset, writer.owner, writer.last_version) == ("w", 15, "local", last)
    call = storage.AppendRows()
    opening = storage_pb2.AppendRowsRequest(open=storage_pb2.AppendOpen(table=NAME, writer_id="w"))
    await call.write(opening)
    await call.read()
    forget = maintenance_pb2.DeleteWriterRequest(request_id="d", table=NAME, writer_id="w")
    with pytest.raises(grpc.aio.AioRpcError) as live:
        await storage.DeleteWriter(forget)
    assert reason(live.value) == "LEASE_HELD"
    call.cancel()
    while (await storage.ListWriters(maintenance_pb2.ListWritersRequest(table=NAME))).writers[0].streaming:
        pass
    epoch = (await storage.DeleteWriter(forget)).epoch
    assert epoch == 4
    assert (await storage.DeleteWriter(forget)).epoch == epoch
    assert not (await storage.ListWriters(maintenance_pb2.ListWritersRequest(table=NAME))).writers
    stale = storage_pb2.AppendRowsRequest(open=storage_pb2.AppendOpen(table=NAME, writer_id="w", epoch=3))
    call = storage.AppendRows()
    await call.write(stale)
    assert (await call.read()).WhichOneof("message") == "error"
    call = storage.AppendRows()
    await call.write(opening)
    opened = (await call.read()).opened
    assert (opened.epoch, opened.next_offset) == (epoch + 1, 15)
    call.cancel()


async def faults(storage: Any, id: str) -> list[tuple[str, str]]:
    checked = await events(storage.CheckTable(maintenance_pb2.CheckTableRequest(table=NAME, request_id=id)))
    assert not report(checked).verified
    return [(event.fault.code, event.fault.path) for event in of("fault", checked)]


async def test_damage_on_the_disk_is_named_while_the_service_runs(storage: Any, home: Path) -> None:
    await fill(storage, 10)
    await more(storage, 10, 10)
    await more(storage, 20, 10)
    uid = (await storage.GetTable(storage_pb2.GetTableRequest(name=NAME))).table.uid
    folder = home / "data" / "tables" / uid
    cut, empty = sorted(folder.glob("l0-*.parquet"))[:2]
    for path, size in ((cut, cut.stat().st_size // 2), (empty, 0)):
        path.chmod(0o644)
        with path.open("r+b") as file:
            file.truncate(size)
    assert sorted(await faults(storage, "a")) == sorted([("FILE_DAMAGED", cut.name), ("FILE_DAMAGED", empty.name)])
    (folder / "_delta_log" / f"{2:020d}.json").unlink()
    assert ("LOG_DAMAGED", "") in await faults(storage, "b") or ("LOG_GAP", "") in await faults(storage, "c")


async def test_a_table_that_cannot_be_opened_is_checked_and_others_go_on(home: Path, tmp_path: Path) -> None:
    spec = ServiceSpec(name="storage", settings=Settings.from_env, compose=compose)
    env = {"MILLRACE_HOME": str(tmp_path / "own")}
    async with running(spec, env) as first:
        stub = storage_pb2_grpc.StorageServiceStub(first.channel())
        await fill(stub, 10)
        await more(stub, 10, 10)
        uid = (await stub.GetTable(storage_pb2.GetTableRequest(name=NAME))).table.uid
    (tmp_path / "own" / "data" / "tables" / uid / "_delta_log" / f"{2:020d}.json").write_bytes(b"")
    async with running(spec, env) as second:
        stub = storage_pb2_grpc.StorageServiceStub(second.channel())
        assert [code for code, _ in await faults(stub, "a")] == ["LOG_DAMAGED"]


async def test_a_run_under_way_at_a_stop_goes_on_after_the_start(tmp_path: Path) -> None:
    spec = ServiceSpec(name="storage", settings=Settings.from_env, compose=compose)
    env = {"MILLRACE_HOME": str(tmp_path / "own")}
    request = maintenance_pb2.EraseRowsRequest(table=NAME, request_id="e", predicate=key(3))
    async with running(spec, env) as first:
        stub = storage_pb2_grpc.StorageServiceStub(first.channel())
        await fill(stub, 10)
        leases = leases_pb2_grpc.LeaseServiceStub(first.channel())
        held = leases_pb2.AcquireLeaseRequest(request_id="l", name=f"maintenance/{NAME}", holder="another replica")
        held.ttl.FromSeconds(5)
        await leases.AcquireLease(held)
        call = stub.EraseRows(request)
        await call.read()
        call.cancel()
    async with running(spec, env) as second:
        stub = storage_pb2_grpc.StorageServiceStub(second.channel())
        found = await events(stub.EraseRows(request))
        assert report(found).rows_erased == 1
        assert await rows_now(stub) == 9
