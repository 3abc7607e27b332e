"""Rights over real servers: who may do what to which table, by signed tokens, through storage alone and through analysis."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
import pytest
from google.rpc import status_pb2

from millrace import errors
from millrace.analysis.v1 import analysis_pb2, analysis_pb2_grpc
from millrace.client.status import error_of
from millrace.laptop.issuer import sign
from millrace.server import audit
from millrace.server.status import from_status
from millrace.server.testing import Served, running
from millrace.storage.v1 import frames_pb2, maintenance_pb2, storage_pb2_grpc
from millrace.storage.v1 import storage_pb2 as pb
from millrace.types.v1 import types_pb2
from millrace.wire.batch import batch_to_proto
from tests.integration.analysis.conftest import SPEC as STORAGE
from tests.integration.analysis.conftest import Store, storage_env
from tests.integration.analysis.test_service import SPEC as ANALYSIS
from tests.integration.analysis.test_service import analysis_env

A, B = "namespaces/a/tables/t", "namespaces/b/tables/t"
SCHEMA = pa.schema([pa.field("id", pa.int64())])
ROWS = pa.table({"id": [1, 2, 3]})


class World:
    """Storage and analysis of one home; `a` and `b` have a table `t` each."""

    def __init__(self, home: Path, storage: Served, analysis: Served) -> None:
        self.home, self.storage_at, self.analysis_at = home, storage, analysis

    def token(self, audience: str = "millrace", lives_s: int = 600, **rights: str) -> str:
        return sign(
            self.home, "ana", {scope.replace("__", "."): [role] for scope, role in rights.items()}, lives_s, audience
        )

    def storage(self, token: str | None = None, **rights: str) -> Any:
        made = self.token(**rights) if token is None else token
        return storage_pb2_grpc.StorageServiceStub(self.storage_at.channel(token=made))

    def analysis(self, **rights: str) -> Any:
        return analysis_pb2_grpc.AnalysisServiceStub(self.analysis_at.channel(token=self.token(**rights)))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    data = tmp_path / "data"
    async with running(STORAGE, storage_env(data), home=tmp_path) as storage:
        store = Store(storage, data)
        for name in (A, B):
            await store.create(name, SCHEMA)
            await store.append(name, ROWS)
        async with running(
            ANALYSIS, analysis_env(data, tmp_path / "work"), home=tmp_path, targets={"storage": storage.target}
        ) as analysis:
            yield World(tmp_path, storage, analysis)


async def refused(call: Any) -> tuple[grpc.StatusCode, errors.MillraceError]:
    """How a call ends that must not work; streams are read to their end."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (run(call) if hasattr(call, "__aiter__") else call)
    found = error_of(caught.value)
    assert isinstance(found, errors.MillraceError)
    return caught.value.code(), found


async def test_a_principal_of_one_namespace_does_not_reach_another(world: World) -> None:
    stub = world.storage(a="admin")
    assert (await stub.GetTable(pb.GetTableRequest(name=A))).table.name == A
    for call in (
        stub.GetTable(pb.GetTableRequest(name=B)),
        stub.ListTables(pb.ListTablesRequest(parent="namespaces/b")),
        stub.PlanRead(pb.PlanReadRequest(table=B)),
        stub.ReadRows(pb.ReadRowsRequest(read=pb.PlanReadRequest(table=B))),
        stub.WatchTable(pb.WatchTableRequest(table=B)),
        stub.CompactTable(maintenance_pb2.CompactTableRequest(table=B, request_id="c")),
    ):
        code, why = await refused(call)
        assert (code, type(why)) == (grpc.StatusCode.PERMISSION_DENIED, errors.NotAllowed)
        assert "for namespaces/b" in why.message
        assert "a=admin" in why.hint


async def test_a_table_alone_can_be_granted(world: World) -> None:
    stub = world.storage(b__t="reader")
    assert (await stub.GetTable(pb.GetTableRequest(name=B))).table.name == B
    assert (await refused(stub.ListTables(pb.ListTablesRequest(parent="namespaces/b"))))[
        0
    ] is grpc.StatusCode.PERMISSION_DENIED


async def test_a_token_of_a_read_carries_no_right(world: World) -> None:
    planned = await world.storage(b="reader").PlanRead(pb.PlanReadRequest(table=B))
    split = planned.splits[0].split_token
    stranger = world.storage(a="admin")
    for call in (
        stranger.ReadRows(pb.ReadRowsRequest(split_token=split)),
        stranger.ListSplitFiles(pb.ListSplitFilesRequest(split_token=split), metadata=(("x-millrace-store-id", "x"),)),
    ):
        assert (await refused(call))[0] in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED)
    assert (await refused(stranger.ReadRows(pb.ReadRowsRequest(split_token=split))))[
        0
    ] is grpc.StatusCode.PERMISSION_DENIED
    rows = 0
    async for message in world.storage(b="reader").ReadRows(pb.ReadRowsRequest(split_token=split)):
        rows += message.batch.row_count
    assert rows == 3
    other = (("x-millrace-resource", A),)
    code, _ = await refused(world.storage(b="reader").ReadRows(pb.ReadRowsRequest(split_token=split), metadata=other))
    assert code is grpc.StatusCode.INVALID_ARGUMENT


async def test_header_and_body_that_disagree_are_refused(world: World) -> None:
    stub = world.storage(a="reader", b="reader")
    read = pb.ReadRowsRequest(read=pb.PlanReadRequest(table=B))
    for make in (
        lambda m: stub.GetTable(pb.GetTableRequest(name=B), metadata=m),
        lambda m: stub.ReadRows(read, metadata=m),
    ):
        code, why = await refused(make((("x-millrace-resource", A),)))
        assert (code, type(why)) == (grpc.StatusCode.INVALID_ARGUMENT, errors.FieldInvalid)
    await stub.GetTable(pb.GetTableRequest(name=B), metadata=(("x-millrace-resource", B),))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda w: w.token(a="admin", lives_s=-3600), "60 min ago"),
        (lambda w: w.token(a="admin", audience="grafana"), "for grafana, not for millrace"),
        (lambda w: "", "carries no token"),
        (lambda w: "made-up", "wrong or expired"),
        (lambda w: w.token(a="admin")[:-6] + "AAAAAA", "signature"),
    ],
)  # fmt: skip
async def test_bad_tokens_are_nobody(world: World, make: Callable[[World], str], says: str) -> None:
    code, why = await refused(world.storage(make(world)).GetTable(pb.GetTableRequest(name=A)))
    assert (code, type(why)) == (grpc.StatusCode.UNAUTHENTICATED, errors.TokenInvalid)
    assert says in why.message
    assert why.hint


async def write(stub: Any, frames: Iterable[pb.AppendRowsRequest]) -> status_pb2.Status:
    """The error that the stream says in band; an empty one when it ended well."""
    call, found = stub.AppendRows(), status_pb2.Status()
    for frame in frames:
        await call.write(frame)
    await call.done_writing()
    try:
        async for answer in call:
            if answer.HasField("error"):
                found = answer.error
    except grpc.aio.AioRpcError:
        pass
    return found


def frames(table: str) -> list[pb.AppendRowsRequest]:
    batch = frames_pb2.AppendBatch(offset=0, batch=batch_to_proto(ROWS.to_batches()[0], types_pb2.ENCODING_ARROW))
    return [
        pb.AppendRowsRequest(open=pb.AppendOpen(table=table, writer_id="ana")),
        pb.AppendRowsRequest(batch=batch),
        pb.AppendRowsRequest(finish=frames_pb2.Finish()),
    ]


@pytest.mark.parametrize(
    ("role", "writes", "compacts", "deletes"),
    [
        ("reader", False, False, False),
        ("writer", True, False, False),
        ("operator", False, True, False),
        ("admin", True, True, True),
    ],
)
async def test_what_each_role_may(world: World, role: str, writes: bool, compacts: bool, deletes: bool) -> None:
    stub = world.storage(a=role)
    assert await allowed(write(stub, frames(A))) == writes
    assert (
        await allowed(run(stub.CompactTable(maintenance_pb2.CompactTableRequest(table=A, request_id=f"c-{role}"))))
        == compacts
    )
    assert await allowed(stub.DeleteTable(pb.DeleteTableRequest(name=A, request_id=f"d-{role}"))) == deletes


async def run(call: Any) -> None:
    async for _ in call:
        pass


async def allowed(work: Awaitable[Any]) -> bool:
    try:
        said = await work
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.PERMISSION_DENIED:
            raise
        return False
    if isinstance(said, status_pb2.Status) and said.code:
        assert isinstance(from_status(said), errors.NotAllowed)
        return False
    return True


async def test_a_stream_is_judged_by_its_frames(world: World) -> None:
    stub = world.storage(a="writer")
    assert isinstance(from_status(await write(stub, frames(B))), errors.NotAllowed)
    assert isinstance(from_status(await write(stub, frames(A)[1:])), errors.StreamProtocol)
    twice = [frames(A)[0], frames(B)[0]]
    assert isinstance(from_status(await write(stub, twice)), errors.NotAllowed)


async def test_analysis_asks_with_the_callers_rights(world: World) -> None:
    stub = world.analysis(a="reader")

    async def ask(sql: str) -> Any:
        return [m async for m in stub.Query(analysis_pb2.QueryRequest(sql={"text": sql}, namespace="a"))]

    assert await ask("select count(*) from t")
    for sql in ("select * from b.t", "select * from t join b.t u using (id)", "select (select max(id) from b.t)"):
        code, why = await refused(stub.Query(analysis_pb2.QueryRequest(sql={"text": sql}, namespace="a")))
        assert (code, type(why)) == (grpc.StatusCode.PERMISSION_DENIED, errors.NotAllowed), sql
    spec = {"table": B, "measures": [{"name": "n"}]}
    for call in (
        stub.Query(analysis_pb2.QueryRequest(spec=spec)),
        stub.Subscribe(analysis_pb2.SubscribeRequest(spec=spec)),
    ):
        code, why = await refused(call)
        assert (code, type(why)) == (grpc.StatusCode.PERMISSION_DENIED, errors.NotAllowed)
    code, why = await refused(
        stub.Subscribe(analysis_pb2.SubscribeRequest(sql={"text": "select * from t"}, namespace="b"))
    )
    assert code is grpc.StatusCode.PERMISSION_DENIED


async def test_the_audit_says_who_did_what_and_no_more(world: World, tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    audit.start_audit(path)
    try:
        stub = world.storage(a="writer")
        await stub.GetTable(pb.GetTableRequest(name=A))
        await write(stub, frames(A))
        await refused(stub.GetTable(pb.GetTableRequest(name=B)))
        await refused(world.storage("").GetTable(pb.GetTableRequest(name=B)))
        await refused(stub.DeleteTable(pb.DeleteTableRequest(name=A, request_id="d1")))
    finally:
        audit.start_audit(None)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert path.stat().st_mode & 0o777 == 0o600
    assert [(line["audit"], line["method"].rpartition("/")[2], line["code"]) for line in lines] == [
        ("change", "AppendRows", "OK"),
        ("refused", "GetTable", "PERMISSION_DENIED"),
        ("refused", "GetTable", "UNAUTHENTICATED"),
        ("refused", "DeleteTable", "PERMISSION_DENIED"),
    ]
    assert (lines[0]["principal"], lines[0]["resource"]) == ("ana", [A])
    assert lines[1]["resource"] == [B]
    assert lines[3]["request_id"] == "d1"
    assert all(line["trace_id"] for line in lines)
    assert "eyJ" not in path.read_text()


async def test_the_check_costs_little(world: World) -> None:
    """The median of a unary call with a signed token against one by the owner's token, which only looks up a hash."""
    plain, signed = world.storage("local-token"), world.storage(a="reader")

    async def median_us(stub: Any) -> float:
        taken = []
        for _ in range(200):
            began = time.perf_counter()
            await stub.GetTable(pb.GetTableRequest(name=A))
            taken.append(time.perf_counter() - began)
        return statistics.median(taken) * 1e6

    await asyncio.gather(median_us(plain), median_us(signed))
    pairs = [(await median_us(plain), await median_us(signed)) for _ in range(3)]
    best_plain, best_signed = (min(column) for column in zip(*pairs, strict=True))
    print(f"p50 owner {best_plain:.0f} µs, signed {best_signed:.0f} µs")
    assert best_signed < best_plain + 300
