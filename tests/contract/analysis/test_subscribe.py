"""Subscribe: header, heartbeat, frames; deltas by key; latest wins; resumed; shared; ended with a reason."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pytest

from millrace import errors
from millrace.admin.v1 import admin_pb2, admin_pb2_grpc
from millrace.analysis.v1 import analysis_pb2
from millrace.client.status import error_of
from millrace.types.v1 import types_pb2
from millrace.wire.batch import read_batch
from millrace.wire.schema import schema_from_proto
from tests.contract.analysis.conftest import SCHEMA, Analysis, T, rows

BY_KIND = "select kind, count(*) as n, sum(value) as s from t group by kind"
REPLACE, DELTA = analysis_pb2.FRAME_KIND_REPLACE, analysis_pb2.FRAME_KIND_DELTA


@dataclass(slots=True)
class Got:
    """One frame as a client applied it."""

    begin: analysis_pb2.FrameBegin
    upserts: list[dict[str, Any]]
    deletes: list[dict[str, Any]]
    commit: analysis_pb2.FrameCommit
    token: bytes


@dataclass(slots=True)
class Follower:
    """A client: checks the grammar of the stream and keeps the state that frames describe."""

    call: Any
    keys: tuple[str, ...]
    headers: list[analysis_pb2.SubscribeHeader] = field(default_factory=list)
    heartbeats: list[analysis_pb2.SubscribeResponse] = field(default_factory=list)
    state: dict[tuple[Any, ...], dict[str, Any]] = field(default_factory=dict)
    sequence: int = 0

    async def read(self) -> analysis_pb2.SubscribeResponse:
        try:
            message = await asyncio.wait_for(self.call.read(), 20)
        except Exception as error:
            raise error_of(error) from error
        self.sequence += 1
        assert message.sequence == self.sequence
        return message

    async def frame(self) -> Got:
        begin, upserts, deletes = None, [], []
        while True:
            message = await self.read()
            match message.WhichOneof("message"):
                case "header":
                    assert begin is None
                    self.headers.append(message.header)
                case "heartbeat":
                    self.heartbeats.append(message)
                case "begin":
                    assert begin is None
                    begin = message.begin
                case "upsert":
                    upserts += self._rows(message.upsert, self.headers[-1].schema)
                case "delete":
                    deletes += self._rows(message.delete, self.headers[-1].key_schema)
                case "commit":
                    assert begin is not None
                    got = Got(begin, upserts, deletes, message.commit, message.resume_token)
                    self._apply(got)
                    return got

    def _rows(self, batch: types_pb2.Batch, schema: Any) -> list[dict[str, Any]]:
        return pa.Table.from_batches([read_batch(batch, schema_from_proto(schema))]).to_pylist()

    def _apply(self, got: Got) -> None:
        if got.begin.kind == REPLACE:
            self.state = {}
        for row in got.deletes:
            del self.state[self._key(row)]
        for row in got.upserts:
            self.state[self._key(row)] = row
        assert len(self.state) == got.commit.row_count

    def _key(self, row: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(row[name] for name in self.keys or tuple(row))


@asynccontextmanager
async def following(analysis: Analysis, sql: str = BY_KIND, **fields: Any) -> AsyncIterator[Follower]:
    fields.setdefault("encoding", types_pb2.ENCODING_ARROW)
    fields.setdefault("min_interval", {"nanos": 50_000_000})
    request = analysis_pb2.SubscribeRequest(**({} if "spec" in fields else {"sql": {"text": sql}}), **fields)
    call = analysis.stub().Subscribe(request)
    try:
        yield Follower(call, tuple(request.key_columns))
    finally:
        call.cancel()


async def settled(analysis: Analysis, condition: Any) -> None:
    for _ in range(200):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not settle")


async def test_header_heartbeat_and_first_frame(analysis: Analysis) -> None:
    async with following(analysis, key_columns=["kind"]) as client:
        got = await client.frame()
        assert [f.name for f in client.headers[0].key_schema.fields] == ["kind"]
        assert list(client.headers[0].tables) == [T]
        assert len(client.heartbeats) == 1, "the first one is sent at once"
        assert (got.begin.kind, got.begin.reason) == (REPLACE, "FIRST")
        assert dict(got.commit.versions) == {T: 1}
        assert client.state[("a",)]["n"] == 60
        assert got.commit.event_time_high.seconds > 0


async def test_only_what_changed_travels(analysis: Analysis) -> None:
    by_id = "select id, value from t where id < 1000"
    async with following(analysis, by_id, key_columns=["id"]) as client:
        await client.frame()
        await analysis.files.append(T, rows(3, first=500))
        got = await client.frame()
        assert (got.begin.kind, got.begin.reason) == (DELTA, "")
        assert sorted(row["id"] for row in got.upserts) == [500, 501, 502]
        assert got.deletes == []
        assert len(client.state) == 123


async def test_rows_that_leave_the_result_are_deleted(analysis: Analysis) -> None:
    newest = "select id, value from t order by id desc limit 100"
    async with following(analysis, newest, key_columns=["id"]) as client:
        await client.frame()
        await analysis.files.append(T, rows(2, first=120))
        got = await client.frame()
        assert sorted(row["id"] for row in got.deletes) == [20, 21]
        assert sorted(row["id"] for row in got.upserts) == [120, 121]


async def test_auto_replaces_when_much_changed_and_without_keys(analysis: Analysis) -> None:
    async with following(analysis, key_columns=["kind"]) as keyed, following(analysis) as plain:
        await keyed.frame()
        await plain.frame()
        await analysis.files.append(T, rows(10, first=120))
        assert (await keyed.frame()).begin.reason == "LARGE_CHANGE"
        assert (await plain.frame()).begin.reason == "MODE"


async def test_upsert_sends_deltas_even_when_all_changed(analysis: Analysis) -> None:
    async with following(analysis, mode=analysis_pb2.SUBSCRIBE_MODE_UPSERT, key_columns=["kind"]) as client:
        await client.frame()
        await analysis.files.append(T, rows(1, first=120))
        got = await client.frame()
        assert got.begin.kind == DELTA
        assert [row["kind"] for row in got.upserts] == ["a"]


async def test_latest_wins_and_says_what_was_passed_over(analysis: Analysis) -> None:
    async with following(analysis, min_interval={"seconds": 1}) as client:
        await client.frame()
        for index in range(20):
            await analysis.files.append(T, rows(1, first=200 + index))
        got = await client.frame()
        while got.commit.versions[T] < 21:
            last, got = got, await client.frame()
            assert got.commit.versions[T] > last.commit.versions[T]
        assert got.commit.conflated_versions >= 15
        assert sum(row["n"] for row in client.state.values()) == 140


async def test_a_change_after_a_quiet_time_goes_out_at_once(analysis: Analysis) -> None:
    async with following(analysis, min_interval={"seconds": 1}) as client:
        await client.frame()
        await asyncio.sleep(1.1)
        began = time.monotonic()
        await analysis.files.append(T, rows(1, first=500))
        await client.frame()
        assert time.monotonic() - began < 0.5
        await analysis.files.append(T, rows(1, first=501))
        await client.frame()
        assert time.monotonic() - began >= 0.95, "the second one waits for the interval"


async def test_a_resumed_stream_leaves_out_what_is_known(analysis: Analysis) -> None:
    async with following(analysis, key_columns=["kind"]) as client:
        token = (await client.frame()).token
    async with following(analysis, key_columns=["kind"], resume_token=token) as client:
        client.state = {("a",): {}, ("b",): {}}
        waiting = asyncio.create_task(client.frame())
        await settled(analysis, lambda: client.heartbeats)
        assert client.heartbeats[0].resume_token == token
        await asyncio.sleep(0.3)
        assert not waiting.done(), "nothing changed since: no frame"
        await analysis.files.append(T, rows(1, first=500))
        assert (await waiting).commit.versions[T] == 2
    async with following(analysis, key_columns=["kind"], resume_token=token) as client:
        got = await client.frame()
        assert (got.begin.kind, got.begin.reason) == (REPLACE, "RESUMED")


async def test_one_watch_and_one_computation_serve_all_who_ask_the_same(analysis: Analysis) -> None:
    other = "select max(id) as m from t"
    same = following(analysis), following(analysis, key_columns=["kind"])
    async with same[0] as one, same[1] as two, following(analysis, other) as three:
        for client in (one, two, three):
            await client.frame()
        counters = await _counters(analysis)
        assert (counters["live_questions"], counters["subscribers"], counters["tables_watched"]) == (2, 3, 1)
        assert analysis.tables.watches == {T: 1}
    await settled(analysis, lambda: analysis.tables.watches == {T: 0})
    assert (await _counters(analysis))["live_questions"] == 0


async def _counters(analysis: Analysis) -> dict[str, float]:
    stub = admin_pb2_grpc.AdminServiceStub(analysis.served.channel("local"))
    return dict((await stub.GetStatus(admin_pb2.GetStatusRequest())).counters)


async def test_a_table_made_again_replaces_everything(analysis: Analysis) -> None:
    async with following(analysis, key_columns=["kind"]) as client:
        await client.frame()
        await analysis.files.create(T, SCHEMA, "ts")
        await analysis.files.append(T, rows(4))
        got = await client.frame()
        assert (got.begin.kind, got.begin.reason) == (REPLACE, "TABLE_RECREATED")
        while got.commit.versions[T] < 1:
            got = await client.frame()
        assert client.state[("a",)]["n"] == 2


async def test_new_columns_come_with_a_new_header(analysis: Analysis) -> None:
    async with following(analysis, "select * from t where id > 115") as client:
        await client.frame()
        wider = rows(1, first=120).append_column("extra", pa.array(["x"]))
        await analysis.files.append(T, wider)
        got = await client.frame()
        assert got.begin.reason == "SCHEMA"
        assert [f.name for f in client.headers[-1].schema.fields][-1] == "extra"
        assert len(client.headers) == 2


async def test_a_deleted_table_ends_the_stream_with_its_reason(analysis: Analysis) -> None:
    async with following(analysis) as client:
        await client.frame()
        await analysis.files.drop(T)
        with pytest.raises(errors.TableNotFound):
            await client.frame()


async def test_a_result_that_grows_too_large_ends_the_stream(analysis: Analysis) -> None:
    async with following(analysis, "select id from t", max_rows=130) as client:
        await client.frame()
        await analysis.files.append(T, rows(50, first=120))
        with pytest.raises(errors.ResultTooLarge):
            await client.frame()


@pytest.mark.parametrize(
    ("fields", "kind", "field"),
    [
        ({"mode": analysis_pb2.SUBSCRIBE_MODE_UPSERT}, errors.FieldRequired, "key_columns"),
        ({"key_columns": ["nope"]}, errors.FieldInvalid, "key_columns[0]"),
        ({"min_interval": {"nanos": 1000}}, errors.FieldInvalid, "min_interval"),
        ({"min_interval": {"seconds": 61}}, errors.FieldInvalid, "min_interval"),
        ({"mode": 9}, errors.FieldInvalid, "mode"),
        ({"max_rows": -1}, errors.FieldInvalid, "max_rows"),
        ({"resume_token": b"x"}, errors.TokenUnsupported, ""),
        ({"sql": {"text": "select nope from t"}}, errors.SqlInvalid, ""),
        ({"sql": {"text": "select 1 from nope"}}, errors.TableNotFound, ""),
    ],
)
async def test_a_bad_request_names_its_fault(
    analysis: Analysis, fields: dict[str, Any], kind: type[errors.MillraceError], field: str
) -> None:
    fields.setdefault("sql", {"text": BY_KIND})
    with pytest.raises(kind) as refused:
        await Follower(analysis.stub().Subscribe(analysis_pb2.SubscribeRequest(**fields)), ()).frame()
    assert type(refused.value) is kind
    assert refused.value.field == field or not field


async def test_keys_that_name_no_single_row(analysis: Analysis) -> None:
    request = {"mode": analysis_pb2.SUBSCRIBE_MODE_UPSERT, "key_columns": ["kind"]}
    async with following(analysis, "select kind, value from t", **request) as client:
        client.keys = ()
        await client.frame()
        await analysis.files.append(T, rows(1, first=500))
        with pytest.raises(errors.FieldInvalid) as refused:
            await client.frame()
        assert refused.value.field == "key_columns"


async def test_deterministic_and_typed(analysis: Analysis) -> None:
    measure = {"name": "n", "aggregate": 1}
    spec = {"table": "t", "measures": [measure], "last_seconds": 600}
    async with following(analysis, spec=spec, deterministic=True) as client:
        assert (await client.frame()).upserts == [{"n": 10}]
        await analysis.files.append(T, rows(5, first=1000))
        assert (await client.frame()).upserts == [{"n": 5}]
