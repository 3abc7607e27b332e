"""The RPCs as a blocking client sees them, through pytest-grpc's own fixtures: every one with nothing in it, and one answer each."""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import status_pb2

from millrace.analysis.v1 import analysis_pb2 as pb
from millrace.analysis.v1 import analysis_pb2_grpc as pb_grpc
from millrace.analysis.v1 import statistics_pb2
from millrace.client.status import from_status
from millrace.engine.memory import MemoryFiles
from millrace.server.telemetry import start_telemetry
from svc_analysis.__main__ import assemble
from svc_analysis.adapters.memory import MemoryTables
from svc_analysis.config import Settings
from tests.contract.analysis.conftest import SCHEMA, T, rows


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


@pytest.fixture(scope="module")
def grpc_add_to_server() -> Callable[..., None]:
    return pb_grpc.add_AnalysisServiceServicer_to_server


@pytest.fixture(scope="module")
def grpc_servicer(folder: Path) -> Callable[[], Awaitable[object]]:
    async def make() -> object:
        files = MemoryFiles(folder)
        await files.create(T, SCHEMA, "ts")
        await files.append(T, rows(120))
        settings = Settings.from_env({"MILLRACE_ANALYSIS_MEMORY_MB": "200"})
        composition = assemble(settings, MemoryTables(files), str(folder), start_telemetry("analysis"))
        return composition.servicers[0][1]

    return make


@pytest.fixture(scope="module")
def grpc_stub_cls() -> type:
    return pb_grpc.AnalysisServiceStub


def refused(call: Callable[[], Any]) -> Any:
    with pytest.raises(grpc.RpcError) as error:
        call()
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    rich = dict(error.value.trailing_metadata())["grpc-status-details-bin"]
    return from_status(status_pb2.Status.FromString(rich))


def test_nothing_asked_names_what_is_missing(grpc_stub: Any) -> None:
    assert refused(lambda: list(grpc_stub.Query(pb.QueryRequest()))).field == "spec|sql"
    assert refused(lambda: list(grpc_stub.Subscribe(pb.SubscribeRequest()))).field == "spec|sql"
    assert refused(lambda: grpc_stub.FitRegression(statistics_pb2.FitRegressionRequest())).field == "observations"
    assert (
        refused(lambda: list(grpc_stub.ForecastSeries(statistics_pb2.ForecastSeriesRequest()))).field == "observations"
    )


def test_query(grpc_stub: Any) -> None:
    messages = list(grpc_stub.Query(pb.QueryRequest(sql={"text": "select count(*) as n from t"})))
    assert [m.WhichOneof("message") for m in messages] == ["header", "batch", "end"]
    assert messages[1].batch.rows.rows[0].values[0].int == 120


def test_subscribe(grpc_stub: Any) -> None:
    call = grpc_stub.Subscribe(pb.SubscribeRequest(sql={"text": "select count(*) as n from t"}))
    kinds = [next(call).WhichOneof("message") for _ in range(5)]
    call.cancel()
    assert kinds == ["header", "heartbeat", "begin", "upsert", "commit"]


def test_statistics(grpc_stub: Any) -> None:
    observations = {"sql": {"text": "select id, ts, value + sin(id) as value from t"}}
    request = statistics_pb2.FitRegressionRequest(observations=observations, response="value", predictors=["id"])
    assert grpc_stub.FitRegression(request).coefficients[1].name == "id"
    wish = statistics_pb2.ForecastSeriesRequest(observations=observations, time="ts", value="value", horizon=2)
    kinds = [message.WhichOneof("message") for message in grpc_stub.ForecastSeries(wish)]
    kinds = [kind for kind in kinds if kind != "heartbeat"]  # statsmodels may take its time to load
    assert kinds == ["header", "status", "batch", "end"]
