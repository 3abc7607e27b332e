"""ExportTable and ImportTable over the wire: runs with progress and a report, refused with a reason."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from millrace.storage.v1 import maintenance_pb2 as pb
from millrace.storage.v1 import storage_pb2
from tests.contract.storage.backends import NAME
from tests.contract.storage.test_maintenance_served import events, of, report
from tests.contract.storage.test_served import fill, read, reason, served, storage

__all__ = ["served", "storage"]
pytestmark = pytest.mark.usefixtures("served")
COPY = NAME + "_copy"


def to_archive(request_id: str, destination: str = "backups/orders", **more: Any) -> pb.ExportTableRequest:
    return pb.ExportTableRequest(table=NAME, request_id=request_id, destination=destination, **more)


def from_archive(request_id: str, source: str = "backups/orders", table: str = COPY) -> pb.ImportTableRequest:
    return pb.ImportTableRequest(table=table, request_id=request_id, source=source)


async def test_a_table_goes_out_and_comes_back(storage: Any) -> None:
    await fill(storage, 100)
    out = await events(storage.ExportTable(to_archive("e1")))
    assert report(out).notes == ["100 rows in 1 files of `backups/orders`"]
    assert of("progress", out)[-1].progress.fraction == 1.0
    back = await events(storage.ImportTable(from_archive("i1")))
    assert report(back).notes == ["imported from `backups/orders`"]
    plan = storage_pb2.PlanReadRequest(table=COPY)
    rows, _ = await read(storage, storage_pb2.ReadRowsRequest(read=plan))
    assert sorted(rows.column("id").to_pylist()) == list(range(100))
    again = await events(storage.ImportTable(from_archive("i1")))
    assert again[-1].finished.state == back[-1].finished.state


@pytest.mark.parametrize(
    ("call", "code", "why"),
    [
        (lambda s: s.ExportTable(to_archive("e1", "../x")), "INVALID_ARGUMENT", "FIELD_INVALID"),
        (lambda s: s.ExportTable(to_archive("e2", version=999)), "FAILED_PRECONDITION", "VERSION_IN_FUTURE"),
        (lambda s: s.ImportTable(from_archive("i1", "nothing/here")), "DATA_LOSS", "FILE_MISSING"),
        (lambda s: s.ImportTable(from_archive("i2", table=NAME)), "ALREADY_EXISTS", "RESOURCE_EXISTS"),
    ],
)
async def test_what_cannot_be_is_refused(storage: Any, call: Any, code: str, why: str) -> None:
    await fill(storage, 10)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await events(call(storage))
    assert refused.value.code() is grpc.StatusCode[code]
    assert reason(refused.value) == why
