"""CommitterService over the wire: for replicas of storage only, idempotent by the commit's id, and the log decides."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import AsyncIterator
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from millrace.server.runtime import ServiceSpec
from millrace.server.testing import Served, running
from millrace.storage.v1 import committer_pb2, committer_pb2_grpc, storage_pb2, storage_pb2_grpc
from millrace.wire.schema import schema_to_proto
from svc_storage.__main__ import compose
from svc_storage.config import Settings
from svc_storage.domain.writing.commit_codec import decode, encode
from svc_storage.ports import (
    BatchMark,
    Commit,
    CommitKind,
    DataFile,
    DeadLetterFile,
    Proposal,
    WriterPlace,
    WriterState,
)
from tests.contract.storage.backends import NAME, SCHEMA
from tests.contract.storage.test_served import reason


@pytest.fixture
async def served(home: Path) -> AsyncIterator[Served]:
    spec = ServiceSpec(name="storage", settings=Settings.from_env, compose=compose)
    async with running(spec, {"MILLRACE_HOME": str(home)}) as found:
        yield found


def fence(epoch: int, place: WriterPlace, commit_id: str = "c1") -> Proposal:
    state = WriterState(epoch, place.next_offset, owner="tester")
    commit = Commit(id=commit_id, kind=CommitKind.FENCE, time_us=time.time_ns() // 1000, writers={"w": state})
    return Proposal(commit=commit, after=0, schema_id=1, places={"w": place})


async def uid_of(served: Served) -> str:
    storage = storage_pb2_grpc.StorageServiceStub(served.channel())
    table = storage_pb2.Table(name=NAME, schema=schema_to_proto(SCHEMA), event_time_column="at")
    made = await storage.CreateTable(storage_pb2.CreateTableRequest(request_id="create", table=table))
    return str(made.table.uid)


def request(uid: str, proposal: Proposal, **more: str) -> committer_pb2.CommitRequest:
    fields: dict[str, Any] = {"request_id": proposal.commit.id, "table": NAME, "table_uid": uid, **more}
    return committer_pb2.CommitRequest(proposal=encode(proposal), **fields)


async def test_a_commit_lands_once_and_answers_alike(served: Served) -> None:
    uid = await uid_of(served)
    stub = committer_pb2_grpc.CommitterServiceStub(served.channel("storage"))
    ask = request(uid, fence(1, WriterPlace()))
    assert (await stub.Commit(ask)).version == 1
    assert (await stub.Commit(ask)).version == 1
    assert (await stub.Commit(request(uid, fence(2, WriterPlace(1, 0), "c2")))).version == 2
    assert (await stub.Commit(ask)).version == 1


async def test_what_does_not_follow_is_refused(served: Served) -> None:
    uid = await uid_of(served)
    stub = committer_pb2_grpc.CommitterServiceStub(served.channel("storage"))
    await stub.Commit(request(uid, fence(1, WriterPlace())))
    for wrong, why in (
        (fence(1, WriterPlace(), "other"), "WRITER_FENCED"),
        (replace(fence(2, WriterPlace(1, 0), "other"), schema_id=7), "COMMIT_CONFLICT"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Commit(request(uid, wrong))
        assert reason(refused.value) == why


@pytest.mark.parametrize("principal", ["local", "extract"])
async def test_only_replicas_may(served: Served, principal: str) -> None:
    uid = await uid_of(served)
    stub = committer_pb2_grpc.CommitterServiceStub(served.channel(principal))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.Commit(request(uid, fence(1, WriterPlace())))
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_what_is_no_proposal_is_named(served: Served) -> None:
    uid = await uid_of(served)
    stub = committer_pb2_grpc.CommitterServiceStub(served.channel("storage"))
    for wrong, why in (
        (committer_pb2.CommitRequest(request_id="c1", table=NAME, table_uid=uid, proposal=b"?"), "FIELD_INVALID"),
        (request(uid, fence(1, WriterPlace()), request_id="another"), "FIELD_INVALID"),
        (request("0" * 32, fence(1, WriterPlace())), "TABLE_RECREATED"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Commit(wrong)
        assert reason(refused.value) == why


def test_a_proposal_comes_back_as_it_was() -> None:
    letters = DeadLetterFile("d", 1, 2, 3)
    file = DataFile("l0-a.parquet", 10, 5, 1, 3, 7, '{"numRecords":5}')
    state = WriterState(3, 45, {"f": "9"}, 12, (BatchMark(40, 5, 77),), "tester", "sources/s")
    commit = Commit(
        id="c",
        kind=CommitKind.MERGE,
        time_us=5,
        adds=(file,),
        removes=(replace(file, path="b"),),
        writers={"w": state},
        dead_letters=(letters,),
        schema=SCHEMA,
        schema_id=2,
        event_time_high_us=12,
        trace_context="00-1",
        dead_letters_removed=(replace(letters, path="e"),),
        expire_below=3,
        gone_us=9,
    )
    unset = [
        one.name for one in fields(Commit) if one.default is not MISSING and getattr(commit, one.name) == one.default
    ]
    assert not unset, "a field that the codec may lose"
    proposal = Proposal(commit=commit, after=6, schema_id=1, places={"w": WriterPlace(3, 40)})
    assert decode(encode(proposal)) == proposal
    with pytest.raises(ValueError, match="not a proposed commit"):
        decode(b"nonsense")


@pytest.mark.parametrize(
    "lie",
    [
        {"time": "x"},
        {"time": -1},
        {"time": 10**30},
        {"high": "x"},
        {"trace": 5},
        {"expire": 1.5},
        {"after": None},
        {"adds": [["../../x.parquet", 1, 1, 0, 0, 0, "{}"]]},
        {"adds": [["/x.parquet", 1, 1, 0, 0, 0, "{}"]]},
        {"adds": [["x.parquet", "1", 1, 0, 0, 0, "{}"]]},
        {"adds": [["x.parquet", 1, 1, 0, 0, 0, None]]},
        {"removes": [["", 1, 1, 0, 0, 0, "{}"]]},
        {"writers": {"w": [1, 2, {"f": 3}, None, [], "", ""]}},
        {"writers": {"w": [1, 2, {}, None, [[0, 1, True]], "", ""]}},
        {"dead": [["x", 1, -1, 0]]},
    ],
    ids=str,
)
def test_what_would_spoil_the_log_is_no_proposal(lie: dict[str, Any]) -> None:
    said = json.loads(zlib.decompress(encode(fence(1, WriterPlace(0, 0)))))
    with pytest.raises(ValueError, match="not a"):
        decode(zlib.compress(json.dumps({**said, **lie}).encode()))


@pytest.mark.parametrize("content", [b"", b"{}", zlib.compress(b"[" * 100_000), zlib.compress(b"{}")[:-3]])
def test_what_is_no_json_is_no_proposal(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"not a|Expecting"):
        decode(content)
