"""Ingest over gRPC: AppendRows' rules, and text that becomes rows or dead letters."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from millrace.client import status
from millrace.extract.v1 import extract_pb2 as pb
from millrace.extract.v1 import extract_pb2_grpc
from millrace.server.testing import running
from svc_extract.adapters.memory.tables import MemoryTables
from tests.contract.extract.conftest import TABLE, make_service
from tests.contract.extract.test_sources import reason


@pytest.fixture
def push_source(grpc_stub: Any, source: str) -> str:
    spec = pb.SourceSpec(table=TABLE, push=pb.PushConnector())
    grpc_stub.PutSource(pb.PutSourceRequest(request_id=f"put {source}", source=pb.Source(name=source, spec=spec)))
    return source


def opening(source: str, **rest: Any) -> pb.IngestRequest:
    return pb.IngestRequest(open=pb.IngestOpen(source=source, writer_id=source.rpartition("/")[2], **rest))


def text(offset: int | None, *records: bytes, format: int = pb.RECORD_FORMAT_JSON) -> pb.IngestRequest:
    return pb.IngestRequest(batch=pb.IngestBatch(offset=offset, records=pb.RawRecords(records=records, format=format)))


FINISH = pb.IngestRequest(finish=pb.IngestFinish())


def ingest(stub: Any, *frames: pb.IngestRequest) -> Iterator[pb.IngestResponse]:
    return iter(stub.Ingest(iter(frames), timeout=20))


def test_records_become_rows_or_dead_letters(grpc_stub: Any, push_source: str, tables: MemoryTables) -> None:
    csv = text(3, b'4,"a,b"', b"5", b'6,"x', b"x,y", b"7,a\n8,b", format=pb.RECORD_FORMAT_CSV)
    json = text(0, b'{"id": 1, "name": "a"}', b"{", b'{"id": 3}')
    answers = list(ingest(grpc_stub, opening(push_source), json, csv, FINISH))
    assert [one.WhichOneof("message") for one in answers] == ["opened", "committed", "committed", "done"]
    assert [(one.committed.rows_written, one.committed.rows_dead_lettered) for one in answers[1:3]] == [(2, 1), (1, 4)]
    assert answers[-1].done.next_offset == 8
    found = tables.find(TABLE)
    assert [row["id"] for batch in found.batches[-2:] for row in batch.to_pylist()] == [1, 3, 4]
    assert [one.reason for one in found.letters[-5:]] == [
        "UNPARSEABLE",
        "FIELD_COUNT",
        "UNPARSEABLE",
        "TYPE",
        "UNPARSEABLE",
    ]


def test_offsets_are_storages(grpc_stub: Any, push_source: str) -> None:
    first = list(ingest(grpc_stub, opening(push_source), text(0, b'{"id": 1}'), FINISH))
    again = list(ingest(grpc_stub, opening(push_source), text(0, b'{"id": 1}'), text(1, b'{"id": 2}'), FINISH))
    assert (first[0].opened.next_offset, again[0].opened.next_offset) == (0, 1)
    assert again[1].committed.rows_duplicate == 1
    with pytest.raises(grpc.RpcError) as refused:
        list(ingest(grpc_stub, opening(push_source), text(9, b'{"id": 1}'), FINISH))
    assert reason(refused.value)[0] == "OFFSET_GAP"


@pytest.mark.parametrize(
    ("frames", "found"),
    [
        ([FINISH], ("STREAM_PROTOCOL", "open")),
        ([pb.IngestRequest()], ("STREAM_PROTOCOL", "message")),
        (["open", "open"], ("STREAM_PROTOCOL", "open")),
        (["open"], ("STREAM_PROTOCOL", "finish")),
        (["open", text(None, b"{}")], ("FIELD_REQUIRED", "batch.offset")),
        (["open", pb.IngestRequest(batch=pb.IngestBatch(offset=0))], ("FIELD_REQUIRED", "batch.batch|records")),
        (["open", text(0, b"{}", format=99)], ("FIELD_INVALID", "batch.records.format")),
        (["open", text(0, *[b""] * 1_000_000)], ("FIELD_INVALID", "batch.records.records")),
    ],
)
def test_frames_out_of_order_get_their_reason_in_band_first(
    grpc_stub: Any, push_source: str, frames: list[Any], found: tuple[str, str]
) -> None:
    sent = [opening(push_source) if frame == "open" else frame for frame in frames]
    answers: list[pb.IngestResponse] = []
    with pytest.raises(grpc.RpcError) as refused:
        answers.extend(ingest(grpc_stub, *sent))
    assert reason(refused.value)[0] == found[0]
    in_band = status.in_band(answers[-1].error)
    assert in_band.reason == found[0]
    assert in_band.field.startswith(found[1])


def test_only_push_sources_and_their_writers_are_admitted(grpc_stub: Any, csv_source: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        list(ingest(grpc_stub, opening(csv_source), FINISH))
    assert reason(refused.value) == ("FIELD_INVALID", "open.source")
    spec = pb.SourceSpec(table=TABLE, push=pb.PushConnector(writers=["a"]))
    name = f"{csv_source}_p"
    grpc_stub.PutSource(pb.PutSourceRequest(request_id=name, source=pb.Source(name=name, spec=spec)))
    with pytest.raises(grpc.RpcError) as refused:
        list(ingest(grpc_stub, opening(name), FINISH))
    assert reason(refused.value) == ("NOT_ALLOWED", "open.writer_id")


def test_a_drain_commits_what_came_and_says_so(folder: Path, tables: MemoryTables) -> None:
    """On a service of its own: it is drained here."""

    async def story() -> tuple[list[str], str]:
        async with running(make_service(folder, tables)) as served:
            stub = extract_pb2_grpc.ExtractServiceStub(served.channel())
            name = "namespaces/default/sources/drained"
            spec = pb.SourceSpec(table=TABLE, push=pb.PushConnector())
            await stub.PutSource(pb.PutSourceRequest(request_id="d", source=pb.Source(name=name, spec=spec)))
            call = stub.Ingest()
            await call.write(opening(name))
            await call.write(text(0, b'{"id": 1}'))
            kinds = [(await call.read()).WhichOneof("message"), (await call.read()).WhichOneof("message")]
            served.serving.drain(1.0)
            last = await call.read()
            return [*kinds, last.WhichOneof("message")], status.in_band(last.error).reason

    assert asyncio.run(story()) == (["opened", "committed", "error"], "STREAM_DRAINING")
