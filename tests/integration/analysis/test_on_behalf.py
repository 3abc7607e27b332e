"""Background work is its owner's: whose rights were taken away, their work is refused (contracts.md section 7)."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
import pytest

from millrace import errors
from millrace.client.status import error_of
from millrace.server.identity import on_behalf_of
from millrace.server.testing import Served, running
from millrace.storage.v1 import storage_pb2 as pb
from millrace.storage.v1 import storage_pb2_grpc
from tests.integration.analysis.conftest import SPEC as STORAGE
from tests.integration.analysis.conftest import Store, storage_env

A = "namespaces/a/tables/t"


@pytest.fixture
def grants(tmp_path: Path) -> Path:
    path = tmp_path / "grants.json"
    path.write_text("{}")
    return path


@pytest.fixture
async def storage(tmp_path: Path, grants: Path) -> AsyncIterator[Served]:
    data = tmp_path / "data"
    async with running(STORAGE, storage_env(data), home=tmp_path, grants_file=grants) as served:
        await Store(served, data).create(A, pa.schema([pa.field("id", pa.int64())]))
        yield served


def grant(path: Path, said: dict[str, Any]) -> None:
    before = path.stat().st_mtime_ns
    path.write_text(json.dumps(said))
    os.utime(path, ns=(before + 1_000_000, before + 1_000_000))


async def read_as(served: Served, service: str, owner: str) -> str:
    """The table's name, read by `service` in the background work of `owner`."""
    stub: Any = storage_pb2_grpc.StorageServiceStub(served.channel(service))
    try:
        with on_behalf_of(owner):
            return str((await stub.GetTable(pb.GetTableRequest(name=A))).table.name)
    except grpc.aio.AioRpcError as error:
        raise error_of(error) from error


async def test_rights_that_were_taken_away_end_the_work(storage: Served, grants: Path) -> None:
    assert await read_as(storage, "transform", "ana") == A, "who is not listed was checked when the resource was made"
    grant(grants, {"ana": {"b": "writer"}})
    with pytest.raises(errors.NotAllowed, match="`ana` may not call GetTable"):
        await read_as(storage, "transform", "ana")
    assert await read_as(storage, "transform", "") == A, "its own work is not ana's"
    grant(grants, {"ana": {"a": "reader"}})
    assert await read_as(storage, "transform", "ana") == A


async def test_only_services_act_for_others(storage: Served) -> None:
    with pytest.raises(errors.NotAllowed, match="only services"):
        await read_as(storage, "local", "ana")
