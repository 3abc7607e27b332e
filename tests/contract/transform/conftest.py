"""Transform behind all its layers, on a real storage service, hosted the way pytest-grpc hosts a servicer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest

from millrace.server.runtime import ServiceSpec
from millrace.server.testing import Served, running
from millrace.storage.v1 import storage_pb2_grpc
from millrace.transform.v1 import transform_pb2_grpc
from svc_storage.__main__ import compose as compose_storage
from svc_storage.config import Settings as StorageSettings
from svc_transform.__main__ import compose
from svc_transform.config import Settings
from tests.contract.conftest import LoopThread


@pytest.fixture(scope="module")
def grpc_servicer(tmp_path_factory: pytest.TempPathFactory) -> tuple[ServiceSpec, dict[str, str]]:
    """The whole service and its settings: `grpc_server` composes it beside storage."""
    home = tmp_path_factory.mktemp("home")
    spec = ServiceSpec(name="transform", settings=Settings.from_env, compose=compose)
    return spec, {"MILLRACE_HOME": str(home), "MILLRACE_TRANSFORM_LEASE_TTL": "5s"}


@pytest.fixture(scope="module", params=["memory", "local"])
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def stack(
    grpc_servicer: tuple[ServiceSpec, dict[str, str]], backend: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Served, Served]]:
    """(storage, transform)."""
    spec, env = grpc_servicer
    data = tmp_path_factory.mktemp("data")
    storage_spec = ServiceSpec(name="storage", settings=StorageSettings.from_env, compose=compose_storage)
    storage_env = {"MILLRACE_STORAGE_DATA_DIR": str(data), "MILLRACE_STORAGE_BACKEND": backend}
    storage_env["MILLRACE_STORAGE_DIRECT_FILES"] = "true"
    thread, opened = LoopThread(), AsyncExitStack()

    async def start() -> tuple[Served, Served]:
        storage = await opened.enter_async_context(running(storage_spec, storage_env, home=data))
        own = {**env, "MILLRACE_TRANSFORM_DATA_ROOT": str(data)}
        targets = {"storage": storage.target}
        return storage, await opened.enter_async_context(running(spec, own, home=data, targets=targets))

    try:
        yield thread.call(start())
    finally:
        thread.call(opened.aclose())
        thread.close()


@pytest.fixture(scope="module")
def grpc_server(stack: tuple[Served, Served]) -> Served:
    return stack[1]


@pytest.fixture(scope="module")
def grpc_stub_cls() -> type:
    return transform_pb2_grpc.TransformServiceStub


@pytest.fixture(scope="module")
def storage(stack: tuple[Served, Served]) -> Iterator[storage_pb2_grpc.StorageServiceStub]:
    """A sync stub that calls storage as `local`."""
    import grpc

    from tests.contract.conftest import _WithToken

    with grpc.insecure_channel(stack[0].target) as channel:
        yield storage_pb2_grpc.StorageServiceStub(grpc.intercept_channel(channel, _WithToken("local-token")))
