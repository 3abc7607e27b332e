"""Queries and live results, against an analysis service that breaks."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pyarrow as pa
import pytest

from millrace import errors
from millrace.analysis.v1 import analysis_pb2 as pb
from millrace.analysis.v1 import analysis_pb2_grpc
from millrace.client import frames
from millrace.client.channel import Connection, open_channel
from millrace.client.query import QueryRead, sql_query
from millrace.client.status import Unreachable
from millrace.client.subscribe import Subscription
from millrace.wire.batch import batch_to_proto
from millrace.wire.schema import schema_to_proto
from tests.unit.client.scripted import Ending, Faults, numbered, serving

KEYED = pa.schema([pa.field("k", pa.string()), pa.field("v", pa.int64())])


@pytest.fixture(autouse=True)
def _quick_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millrace.client.resume.FIRST_PAUSE_S", 0.002)
    monkeypatch.setattr("millrace.client.resume.LONGEST_PAUSE_S", 0.02)


class Analysis(analysis_pb2_grpc.AnalysisServiceServicer):
    """Query answers numbered rows; Subscribe follows `states`, one frame each, as deltas. Tokens are the place in these."""

    def __init__(self, faults: Faults | None = None, *, total_order: bool = True) -> None:
        self.faults = faults or Faults()
        self.total_order = total_order
        self.states: list[dict[str | None, int]] = [{}]

    async def _ending(self, work: Any, context: Any) -> None:
        try:
            await work
        except Ending as ending:
            if ending.status is not None:
                context.set_trailing_metadata((("grpc-status-details-bin", ending.status.SerializeToString()),))
                import grpc

                context.set_code(next(code for code in grpc.StatusCode if code.value[0] == ending.status.code))
            elif ending.code is not None:
                context.set_code(ending.code)

    async def Query(self, request: pb.QueryRequest, context: Any) -> None:
        await self._ending(self._query(request, context), context)

    async def _query(self, request: pb.QueryRequest, context: Any) -> None:
        self.faults.maybe()
        schema = schema_to_proto(numbered(0, 1).schema)
        await context.write(pb.QueryResponse(header=pb.QueryHeader(query_id="q", schema=schema, versions={"t": 3})))
        for at in range(int(request.resume_token or b"0"), 20):
            self.faults.maybe()
            token = str(at + 1).encode() if self.total_order else b""
            await context.write(
                pb.QueryResponse(batch=batch_to_proto(numbered(at * 5, 5), request.encoding), resume_token=token)
            )
        self.faults.maybe()
        await context.write(pb.QueryResponse(end=pb.QueryEnd(row_count=100)))

    async def Subscribe(self, request: pb.SubscribeRequest, context: Any) -> None:
        await self._ending(self._subscribe(request, context), context)

    async def _subscribe(self, request: pb.SubscribeRequest, context: Any) -> None:
        sequence = 0

        async def send(**fields: Any) -> None:
            nonlocal sequence
            self.faults.maybe()
            sequence += 1
            await context.write(pb.SubscribeResponse(sequence=sequence, **fields))

        keys = pa.schema([KEYED.field("k")])
        await send(header=pb.SubscribeHeader(schema=schema_to_proto(KEYED), key_schema=schema_to_proto(keys)))
        known = int(request.resume_token) if request.resume_token else None
        for at in range(1 if known is None else known + 1, len(self.states)):
            await self._frame(send, None if known is None else self.states[known], self.states[at], at)
            known = at
        # The end of what is scripted: a proxy's cut, for ever.
        raise Ending(code=None)

    async def _frame(
        self, send: Any, before: dict[str | None, int] | None, state: dict[str | None, int], at: int
    ) -> None:
        kind = pb.FRAME_KIND_REPLACE if before is None else pb.FRAME_KIND_DELTA
        await send(begin=pb.FrameBegin(kind=kind, reason="FIRST" if before is None else ""))
        changed = {k: v for k, v in state.items() if before is None or before.get(k) != v}
        gone = [k for k in (before or {}) if k not in state]
        for key, value in changed.items():
            batch = pa.record_batch({"k": pa.array([key], pa.string()), "v": [value]}, schema=KEYED)
            await send(upsert=batch_to_proto(batch))
        if gone:
            await send(delete=batch_to_proto(pa.record_batch({"k": pa.array(gone, pa.string())})))
        await send(commit=pb.FrameCommit(versions={"t": at}, row_count=len(state)), resume_token=str(at).encode())


@asynccontextmanager
async def connected(analysis: Analysis) -> AsyncIterator[Connection]:
    served = serving((analysis_pb2_grpc.add_AnalysisServiceServicer_to_server, analysis))
    async with served as port, open_channel(f"127.0.0.1:{port}") as channel:
        yield Connection(channel)


@pytest.mark.parametrize("seed", range(1, 11))
async def test_a_query_with_a_total_order_goes_on_where_it_broke(seed: int) -> None:
    analysis = Analysis(Faults(seed, rate=0.25))
    async with (
        connected(analysis) as connection,
        QueryRead(connection, pb.QueryRequest(sql=sql_query("select 1"))) as rows,
    ):
        numbers = [n async for batch in rows for n in batch.column("n").to_pylist()]
    assert numbers == list(range(100))
    assert rows.end.row_count == 100
    assert dict(rows.header.versions) == {"t": 3}
    assert analysis.faults.kinds


async def test_a_query_without_one_is_not_begun_again_after_its_first_row() -> None:
    analysis = Analysis(total_order=False)
    async with (
        connected(analysis) as connection,
        QueryRead(connection, pb.QueryRequest(sql=sql_query("select 1"))) as rows,
    ):
        batches = aiter(rows)
        await anext(batches)
        analysis.faults.rate = 1.0
        with pytest.raises((Unreachable, errors.StreamAgedOut, errors.StreamDraining)):
            [batch async for batch in batches]


def grown(seed: int, count: int) -> list[dict[str | None, int]]:
    dice, states = random.Random(seed), [{}]
    for _ in range(count):
        state: dict[str | None, int] = dict(states[-1])
        for _ in range(dice.randint(1, 4)):
            state[dice.choice([None, "", *"abcdefgh"])] = dice.randint(0, 99)
        for key in dice.sample(sorted(state, key=str), k=min(len(state), dice.randint(0, 2))):
            del state[key]
        states.append(state)
    return states


@pytest.mark.parametrize("seed", range(10))
async def test_a_subscription_shows_each_state_as_it_is(seed: int) -> None:
    analysis = Analysis(Faults(seed, rate=0.05))
    analysis.states = grown(seed, 25)
    request = pb.SubscribeRequest(sql=sql_query("select 1"), key_columns=["k"])
    shown = 0
    async with connected(analysis) as connection, Subscription(connection, request, tries=1000) as frames_:
        async for frame in frames_:
            at = frame.versions["t"]
            assert at > shown, "a frame came twice"
            shown = at
            assert (
                dict(zip(frame.table.column("k").to_pylist(), frame.table.column("v").to_pylist(), strict=True))
                == analysis.states[at]
            )
            if at == 25:
                break
    assert analysis.faults.kinds


async def test_a_frame_that_does_not_add_up_is_asked_for_again() -> None:
    class Forgetful(Analysis):
        async def _frame(self, send: Any, before: Any, state: Any, at: int) -> None:
            if before is not None and at == 2:
                state = dict(list(state.items())[:-1])
                await send(begin=pb.FrameBegin(kind=pb.FRAME_KIND_DELTA))
                await send(commit=pb.FrameCommit(versions={"t": at}, row_count=99), resume_token=b"2")
                return
            await super()._frame(send, before, state, at)

    analysis = Forgetful()
    analysis.states = [{}, {"a": 1}]
    request = pb.SubscribeRequest(sql=sql_query("select 1"), key_columns=["k"])
    async with connected(analysis) as connection, Subscription(connection, request, tries=1000) as frames_:
        assert (await anext(frames_)).reason == "FIRST"
        analysis.states.append({"a": 1, "b": 2})
        frame = await anext(frames_)
    assert frame.table.num_rows in (1, 2)
    assert frame.reason == "FIRST"


def test_keys_may_be_null_nan_and_of_several_columns() -> None:
    nan = float("nan")
    table = pa.table({"a": [1.0, None, nan, 1.0], "b": ["x", "x", None, "y"], "v": [1, 2, 3, 4]})
    upserts = pa.table({"a": [nan, None, 5.0], "b": [None, "x", "z"], "v": [30, 20, 50]})
    deletes = pa.table({"a": [1.0], "b": ["x"]})
    got = frames.apply(table, frames.Change(False, upserts, deletes), ["a", "b"])
    assert got.column("v").to_pylist() == [20, 30, 4, 50]
    assert frames.apply(table, frames.Change(True, upserts), ["a", "b"]) is upserts


@pytest.mark.parametrize("seed", range(20))
def test_applying_changes_is_what_a_dict_does(seed: int) -> None:
    table = KEYED.empty_table()
    for before, after in zip(states := grown(seed, 30), states[1:], strict=False):
        changed = {k: v for k, v in after.items() if before.get(k) != v}
        gone = [k for k in before if k not in after]
        upserts = pa.table(
            {"k": pa.array(changed, pa.string()), "v": pa.array(changed.values(), pa.int64())}, schema=KEYED
        )
        table = frames.apply(table, frames.Change(False, upserts, pa.table({"k": pa.array(gone, pa.string())})), ["k"])
        assert dict(zip(table.column("k").to_pylist(), table.column("v").to_pylist(), strict=True)) == after
