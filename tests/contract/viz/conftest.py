"""viz's servicer behind every layer of the server, with dashboards and answers in memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from millrace.viz.v1 import viz_pb2_grpc
from svc_viz.adapters.memory.answers import MemoryAnswers
from svc_viz.adapters.memory.catalog import MemoryCatalog
from svc_viz.adapters.page.rendering import BokehRenderer
from svc_viz.domain.board import NoticeBoard
from svc_viz.ports import World
from svc_viz.servicers.viz import VizServicer
from tests.unit.viz.conftest import DASHBOARD, FACTS, ROWS, TABLE


@pytest.fixture(scope="module")
def grpc_servicer() -> Callable[[], Awaitable[VizServicer]]:
    async def make() -> VizServicer:
        answers = MemoryAnswers({TABLE: ROWS}, {TABLE: "at"})
        board = NoticeBoard(World(tables=FACTS, unreachable=""))
        return VizServicer(MemoryCatalog({DASHBOARD.name: DASHBOARD}), board, answers.query, BokehRenderer())

    return make


@pytest.fixture(scope="module")
def grpc_add_to_server() -> Callable[..., None]:
    return viz_pb2_grpc.add_VizServiceServicer_to_server


@pytest.fixture(scope="module")
def grpc_stub_cls() -> Any:
    return viz_pb2_grpc.VizServiceStub
