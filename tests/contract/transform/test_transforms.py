"""TransformService over a real channel and a real storage: recipes, their runs, and what is refused."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from millrace.client.channel import Connection, open_channel
from millrace.errors import RunNotFound
from millrace.server import runs as server_runs
from millrace.server.runs import Runs
from millrace.server.testing import Served
from millrace.storage.v1 import frames_pb2, storage_pb2
from millrace.transform.v1 import transform_pb2 as pb
from millrace.types.v1 import run_pb2, types_pb2

NAMESPACE = "namespaces/default"
INT = types_pb2.DataType(kind=types_pb2.TYPE_KIND_INT)


def rid() -> str:
    return uuid.uuid4().hex


def table(name: str) -> str:
    return f"{NAMESPACE}/tables/{name}"


@pytest.fixture
def numbers(storage: Any) -> str:
    """A table `n…` with the column `id`, and no rows yet; returns its bare name."""
    name = f"n{rid()[:12]}"
    schema = types_pb2.Schema(fields=[types_pb2.Field(name="id", type=INT)])
    request = storage_pb2.CreateTableRequest(request_id=rid(), table=storage_pb2.Table(name=table(name), schema=schema))
    storage.CreateTable(request)
    return name


def append(storage: Any, name: str, first: int, count: int) -> None:
    """Rows `first`… as the writer `test`, in one batch, as a client of the plain stub would."""

    def frames() -> Iterator[storage_pb2.AppendRowsRequest]:
        yield storage_pb2.AppendRowsRequest(open=storage_pb2.AppendOpen(table=table(name), writer_id="test"))
        values = [types_pb2.Row(values=[types_pb2.Value(int=first + i)]) for i in range(count)]
        batch = types_pb2.Batch(rows=types_pb2.Rows(rows=values), row_count=count)
        yield storage_pb2.AppendRowsRequest(batch=frames_pb2.AppendBatch(offset=first, batch=batch))
        yield storage_pb2.AppendRowsRequest(finish=frames_pb2.Finish())

    assert [answer.WhichOneof("message") for answer in storage.AppendRows(frames())][-1] == "done"


def gain(storage: Any, name: str, column: str) -> None:
    """The table gets a nullable column more."""
    found = storage.GetTable(storage_pb2.GetTableRequest(name=table(name))).table
    found.schema.fields.add(name=column, type=INT, nullable=True)
    storage.UpdateTable(storage_pb2.UpdateTableRequest(request_id=rid(), table=found))


def put(stub: Any, sql: str, name: str = "", **spec: Any) -> pb.Transform:
    wish = pb.TransformSpec(sql=sql, output=spec.pop("output", table(f"o{rid()[:12]}")), **spec)
    transform = pb.Transform(name=f"{NAMESPACE}/transforms/{name or 't' + rid()[:12]}", spec=wish)
    return stub.PutTransform(pb.PutTransformRequest(request_id=rid(), transform=transform)).transform


def rows_become(storage: Any, name: str, count: int) -> storage_pb2.Table:
    return until(lambda: storage.GetTable(storage_pb2.GetTableRequest(name=name)).table, lambda t: t.row_count == count)


def until(get: Callable[[], Any], good: Callable[[Any], bool], limit_s: float = 15.0) -> Any:
    ends = time.monotonic() + limit_s
    while not good(found := get()):
        assert time.monotonic() < ends, f"still {found}"
        time.sleep(0.02)
    return found


def reason(caught: pytest.ExceptionInfo[grpc.RpcError]) -> tuple[str, str, list[str]]:
    status = rpc_status.from_call(caught.value)
    assert status is not None, caught.value
    info, fields = error_details_pb2.ErrorInfo(), []
    for detail in status.details:
        detail.Unpack(info)
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            fields += [violation.field for violation in bad.field_violations]
    return caught.value.code().name, info.reason, fields


def test_new_rows_of_the_input_arrive_in_the_output(grpc_stub: Any, storage: Any, numbers: str) -> None:
    append(storage, numbers, 0, 50)
    transform = put(grpc_stub, f"SELECT id, id * 2 AS twice FROM {numbers} WHERE id % 10 <> 0")
    rows_become(storage, transform.spec.output, 45)
    append(storage, numbers, 50, 20)
    rows_become(storage, transform.spec.output, 63)
    get = pb.GetTransformRequest(name=transform.name)
    now = until(lambda: grpc_stub.GetTransform(get).transform, lambda t: t.status.progress.rows_written == 63)
    assert now.status.incrementality.append_safe
    assert now.owner == "local"


def test_a_star_goes_on_when_its_input_gains_a_column(grpc_stub: Any, storage: Any, numbers: str) -> None:
    append(storage, numbers, 0, 10)
    transform = put(grpc_stub, f"SELECT * FROM {numbers}")
    rows_become(storage, transform.spec.output, 10)
    gain(storage, numbers, "more")
    append(storage, numbers, 10, 5)
    found = rows_become(storage, transform.spec.output, 15)
    assert [field.name for field in found.schema.fields] == ["id", "more"]


def test_a_run_is_observed_attached_to_and_replayed(grpc_stub: Any, storage: Any, numbers: str) -> None:
    append(storage, numbers, 0, 30)
    transform = put(grpc_stub, f"SELECT id FROM {numbers}")
    request = pb.RunTransformRequest(transform=transform.name, request_id=rid(), full_refresh=True)
    events = [response.event for response in grpc_stub.RunTransform(request)]
    stored = [event for event in events if event.sequence]
    assert [event.sequence for event in stored] == list(range(1, len(stored) + 1))
    assert stored[-1].finished.state == run_pb2.RUN_STATE_SUCCEEDED
    assert any(event.HasField("planned") and event.planned.full_refresh for event in stored)
    again = [response.event for response in grpc_stub.RunTransform(request) if response.event.sequence]
    assert [event.sequence for event in again] == [event.sequence for event in stored]
    request.after_sequence = stored[-2].sequence
    assert [r.event.sequence for r in grpc_stub.RunTransform(request) if r.event.sequence] == [stored[-1].sequence]
    rows_become(storage, transform.spec.output, 30)


def test_the_same_run_id_with_another_request_is_refused(grpc_stub: Any, numbers: str) -> None:
    transform = put(grpc_stub, f"SELECT id FROM {numbers}")
    request = pb.RunTransformRequest(transform=transform.name, request_id=rid())
    list(grpc_stub.RunTransform(request))
    request.full_refresh = True
    with pytest.raises(grpc.RpcError) as caught:
        list(grpc_stub.RunTransform(request))
    assert reason(caught)[:2] == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")


def test_an_aggregate_is_accepted_and_says_that_it_is_run_in_full(grpc_stub: Any, storage: Any, numbers: str) -> None:
    append(storage, numbers, 0, 30)
    spec = pb.TransformSpec(sql=f"SELECT id % 3 AS third, count(*) AS n FROM {numbers} GROUP BY 1", output=table("x"))
    checked = grpc_stub.ValidateTransform(pb.ValidateTransformRequest(spec=spec))
    assert (checked.incrementality.append_safe, checked.incrementality.reason) == (False, "AGGREGATE")
    assert [field.name for field in checked.schema.fields] == ["third", "n"]
    assert list(checked.inputs) == [table(numbers)]
    transform = put(grpc_stub, spec.sql)
    rows_become(storage, transform.spec.output, 3)


def test_replacing_needs_the_etag_that_is_current(grpc_stub: Any, numbers: str) -> None:
    transform = put(grpc_stub, f"SELECT id FROM {numbers}")
    stale = pb.Transform(name=transform.name, etag="stale", spec=transform.spec)
    with pytest.raises(grpc.RpcError) as caught:
        grpc_stub.PutTransform(pb.PutTransformRequest(request_id=rid(), transform=stale))
    assert reason(caught)[:2] == ("ABORTED", "ETAG_MISMATCH")


def test_a_repeated_put_gives_the_first_answer(grpc_stub: Any, numbers: str) -> None:
    spec = pb.TransformSpec(sql=f"SELECT id FROM {numbers}", output=table(f"o{rid()[:8]}"))
    request = pb.PutTransformRequest(
        request_id=rid(), transform=pb.Transform(name=f"{NAMESPACE}/transforms/r{rid()[:8]}", spec=spec)
    )
    first, second = grpc_stub.PutTransform(request).transform, grpc_stub.PutTransform(request).transform
    assert (first.uid, first.etag) == (second.uid, second.etag)


def test_lists_page_by_name_and_deletion_is_final(grpc_stub: Any, numbers: str) -> None:
    names = sorted(put(grpc_stub, f"SELECT id FROM {numbers}", name=f"page{i}").name for i in range(3))
    listed, token = [], ""
    while True:
        page = grpc_stub.ListTransforms(pb.ListTransformsRequest(page_size=1, page_token=token))
        listed += [transform.name for transform in page.transforms]
        token = page.next_page_token
        if not token:
            break
    assert [name for name in listed if name in names] == names
    grpc_stub.DeleteTransform(pb.DeleteTransformRequest(request_id=rid(), name=names[0]))
    with pytest.raises(grpc.RpcError) as caught:
        grpc_stub.GetTransform(pb.GetTransformRequest(name=names[0]))
    assert reason(caught)[:2] == ("NOT_FOUND", "TRANSFORM_NOT_FOUND")


@pytest.mark.parametrize(
    ("sql", "code", "why"),
    [
        ("SELECT * FROM nowhere", "NOT_FOUND", "TABLE_NOT_FOUND"),
        ("SELECT 1", "INVALID_ARGUMENT", "FIELD_INVALID"),
        ("DROP TABLE {n}", "INVALID_ARGUMENT", "SQL_INVALID"),
        ("SELECT * FROM {n}; SELECT 1", "INVALID_ARGUMENT", "SQL_INVALID"),
        ("SELECT nothing FROM {n}", "INVALID_ARGUMENT", "SQL_INVALID"),
        ("SELECT id FROM {n} WHERE id = $x", "INVALID_ARGUMENT", "FIELD_INVALID"),
        ("SELECT * FROM '/etc/passwd'", "INVALID_ARGUMENT", "SQL_INVALID"),
        ("SELECT to_days(id::INT) AS span FROM {n}", "INVALID_ARGUMENT", "UNSUPPORTED_TYPE"),
    ],
)
def test_a_bad_recipe_is_refused_and_nothing_is_stored(
    grpc_stub: Any, numbers: str, sql: str, code: str, why: str
) -> None:
    name = f"bad{rid()[:8]}"
    with pytest.raises(grpc.RpcError) as caught:
        put(grpc_stub, sql.replace("{n}", numbers), name=name)
    assert reason(caught)[:2] == (code, why)
    with pytest.raises(grpc.RpcError) as missing:
        grpc_stub.GetTransform(pb.GetTransformRequest(name=f"{NAMESPACE}/transforms/{name}"))
    assert missing.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        ({"output": "namespaces/other/tables/x"}, "transform.spec.output"),
        ({"driving_table": "weather"}, "spec.driving_table"),
        ({"event_time_column": "nothing"}, "spec.event_time_column"),
    ],
)
def test_what_does_not_fit_the_select_is_named(grpc_stub: Any, numbers: str, wish: dict[str, str], field: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        put(grpc_stub, f"SELECT id FROM {numbers}", **wish)
    assert reason(caught) == ("INVALID_ARGUMENT", "FIELD_INVALID", [field])


@pytest.mark.parametrize("method", ["PutTransform", "GetTransform", "DeleteTransform", "ValidateTransform"])
def test_an_empty_request_names_its_field(grpc_stub: Any, method: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        getattr(grpc_stub, method)(getattr(pb, f"{method}Request")())
    code, why, fields = reason(caught)
    assert (code, why) == ("INVALID_ARGUMENT", "FIELD_REQUIRED")
    assert fields


def test_without_a_token_nothing_is_answered(
    grpc_create_channel: Callable[..., grpc.Channel], grpc_stub_cls: Any
) -> None:
    stub = grpc_stub_cls(grpc_create_channel(token=""))
    with pytest.raises(grpc.RpcError) as caught:
        stub.ListTransforms(pb.ListTransformsRequest())
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def written(runs: Runs, name: str) -> int:
    try:
        return (await runs.get(name)).progress.rows_written
    except RunNotFound:
        return 0


async def test_a_cancelled_run_ends_at_its_next_commit(
    grpc_stub: Any, storage: Any, numbers: str, stack: tuple[Served, Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refresh of some hundred commits; afterwards the transform waits for the next change, without a back-off."""
    monkeypatch.setattr(server_runs, "PROGRESS_S", 0.05)
    append(storage, numbers, 0, 1)
    sql = f"SELECT n.id, r.range AS k FROM {numbers} n, range(6000000) r"
    transform = await asyncio.to_thread(put, grpc_stub, sql, paused=False)
    request = pb.RunTransformRequest(transform=transform.name, request_id=rid(), full_refresh=True)
    name = f"{NAMESPACE}/runs/{request.request_id}"
    channel = open_channel(stack[0].target)
    runs = Runs(Connection(channel, token=lambda: "local-token"))

    def follow() -> list[run_pb2.RunEvent]:
        return [response.event for response in grpc_stub.RunTransform(request)]

    following = asyncio.create_task(asyncio.to_thread(follow))
    try:
        while not await written(runs, name):
            await asyncio.sleep(0.02)
        await runs.cancel(name, rid())
        finished = (await following)[-1].finished
    finally:
        await channel.close()
    assert finished.state == run_pb2.RUN_STATE_CANCELLED
    assert 0 < finished.progress.rows_written < 6_000_000
    get = pb.GetTransformRequest(name=transform.name)
    await asyncio.to_thread(
        until,
        lambda: grpc_stub.GetTransform(get).transform.status,
        lambda status: status.state == run_pb2.WORK_STATE_IDLE,
    )
