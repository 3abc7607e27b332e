"""Queries and live results through the client, against the real analysis and storage services."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from millrace import errors
from millrace.analysis.v1 import query_pb2
from millrace.client import Client
from millrace.server.runtime import ServiceSpec
from millrace.server.testing import Served, running
from svc_analysis.__main__ import compose
from svc_analysis.config import Settings


@pytest.fixture
async def client(storage: Served, tmp_path: Path) -> AsyncIterator[Client]:
    spec = ServiceSpec(name="analysis", settings=Settings.from_env, compose=compose)
    env = {"MILLRACE_STORAGE_DATA_DIR": str(tmp_path / "data"), "MILLRACE_ANALYSIS_WORK_DIR": str(tmp_path / "work")}
    async with (
        running(spec, env, home=tmp_path, targets={"storage": storage.target}) as analysis,
        Client.find(storage=storage.target, analysis=analysis.target, token="local-token") as found,
    ):
        await found.create_table("t", {"k": "string", "v": "int64?"})
        yield found


async def test_sql_with_parameters_and_pinned_versions(client: Client) -> None:
    table = client.table("t")
    first = await table.append({"k": ["a", "b", "b"], "v": [1, 2, 3]})
    await table.append({"k": ["c"], "v": [100]})
    result = await client.query(
        "select k, sum(v) as total from t where v >= $least group by k order by k", {"least": 2}
    )
    assert [(row["k"], int(row["total"])) for row in result.to_pylist()] == [("b", 5), ("c", 100)]
    pinned = await client.query("select count(*) as n from t", versions={"t": first.version})
    assert pinned.to_pylist() == [{"n": 3}]
    assert pinned.versions == {table.name: first.version}
    assert not pinned.truncated
    short = await client.query("select * from t", max_rows=2)
    assert len(short) == 2
    assert short.truncated


async def test_a_typed_spec(client: Client) -> None:
    await client.table("t").append({"k": ["a", "b", "b"], "v": [1, 2, None]})
    spec = query_pb2.QuerySpec(
        table="t",
        dimensions=[query_pb2.Dimension(column="k")],
        measures=[query_pb2.Measure(name="n", aggregate=query_pb2.AGGREGATE_COUNT)],
    )
    assert (await client.query(spec)).to_pylist() == [{"k": "a", "n": 1}, {"k": "b", "n": 2}]


async def test_what_the_sandbox_refuses_is_said(client: Client) -> None:
    with pytest.raises(errors.SqlInvalid):
        await client.query("select * from read_csv('/etc/passwd')")
    with pytest.raises(errors.TableNotFound):
        await client.query("select * from nowhere")


async def test_batches_are_streamed(client: Client) -> None:
    await client.table("t").append({"k": ["x"] * 50_000, "v": range(50_000)})
    rows = 0
    async with client.stream_query("select * from t") as running_query:
        assert running_query.schema.names == ["k", "v"]
        async for batch in running_query:
            rows += batch.num_rows
    assert rows == running_query.end.row_count == 50_000


async def test_a_subscription_follows_the_table(client: Client) -> None:
    table = client.table("t")
    await table.append({"k": ["a"], "v": [1]})
    shown: list[dict[str, int]] = []

    async def follow() -> None:
        sql = "select k, sum(v)::bigint as total from t group by k order by k"
        async with client.subscribe(sql, key_columns=["k"], min_interval_s=0.05) as frames:
            async for frame in frames:
                shown.append({row["k"]: row["total"] for row in frame.table.to_pylist()})
                if frame.table.num_rows == 3:
                    return

    following = asyncio.create_task(follow())
    async with asyncio.timeout(20):
        while not shown:
            await asyncio.sleep(0.01)
        await table.append({"k": ["b"], "v": [2]})
        await table.append({"k": ["a", "c"], "v": [5, 9]})
        await following
    assert shown[0] == {"a": 1}
    assert shown[-1] == {"a": 6, "b": 2, "c": 9}
