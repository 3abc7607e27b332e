"""Extract over a real storage: continuous sources, statuses, cancels, push, dead letters as a table."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pyarrow as pa
import pytest

from millrace.client.tables import Table
from millrace.errors import MillraceError
from millrace.extract.v1 import extract_pb2 as pb
from millrace.types.v1 import run_pb2
from tests.integration.extract.pair import SOURCE, TABLE, Pair, files

HEADER = "id,name,price\n"


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


async def numbers(table: Table) -> list[int]:
    return sorted((await table.read(columns=["id"]).to_arrow()).column("id").to_pylist())


async def test_a_growing_file_flows_by_itself(pair: Pair) -> None:
    path = pair.folder / "a.csv"
    path.write_text(HEADER)
    table = await pair.table()
    await pair.put(files(pair.folder, "*.csv", continuous=True))
    for first in range(0, 3000, 100):
        append(path, "".join(f"{number},n,1\n" for number in range(first, first + 100)))
        await asyncio.sleep(0.02)
    append(path, "oops\n")

    async def all_there() -> bool:
        status = await pair.status()
        return status.progress.rows_written == 3000 and status.state == run_pb2.WORK_STATE_IDLE

    await pair.until(all_there)
    status = await pair.status()
    assert await numbers(table) == list(range(3000))
    assert (status.progress.rows_dead_lettered, status.activity) == (1, "waiting for new lines")
    assert status.worker.startswith("extract@")
    assert status.epoch >= 1
    letters = await Table(pair.tables, f"{TABLE}$dead_letters").read().to_arrow()
    assert [(row["reason"], row["raw"]) for row in letters.to_pylist()] == [("FIELD_COUNT", b"oops")]


async def test_rows_that_break_the_tables_contract_are_storages_to_judge(pair: Pair) -> None:
    (pair.folder / "a.csv").write_text(HEADER + "1,a,1\n,b,2\n3,c,3\n")
    table = await pair.table()
    await pair.put(files(pair.folder, "*.csv"))
    done = await pair.run("r1")
    assert (done.progress.rows_written, done.progress.rows_dead_lettered) == (2, 1)
    assert await numbers(table) == [1, 3]


async def test_on_bad_row_fail_ends_the_run_with_the_row(pair: Pair) -> None:
    (pair.folder / "a.csv").write_text(HEADER + "1,a,1\nx,b,2\n")
    await pair.table()
    spec = files(pair.folder, "*.csv")
    spec.on_bad_row = 1
    await pair.put(spec)
    with pytest.raises(MillraceError) as refused:
        await pair.run("r1")
    assert refused.value.reason == "ROW_INVALID"


async def test_a_paused_source_rests_and_goes_on(pair: Pair) -> None:
    path = pair.folder / "a.csv"
    path.write_text(HEADER + "1,a,1\n")
    table = await pair.table()
    spec = files(pair.folder, "*.csv", continuous=True)
    await pair.put(spec)

    async def has(count: int) -> bool:
        return len(await numbers(table)) == count

    await pair.until(lambda: has(1))
    spec.paused = True
    await pair.put(spec)

    async def paused() -> bool:
        return (await pair.status()).state == run_pb2.WORK_STATE_PAUSED

    await pair.until(paused)
    append(path, "2,b,2\n")
    spec.paused = False
    await pair.put(spec)
    await pair.until(lambda: has(2))


async def test_a_run_of_a_replay_is_cancelled_at_its_next_commit(pair: Pair) -> None:
    (pair.folder / "a.csv").write_text("id,at\n1,2026-01-01T00:00:00Z\n2,2026-01-02T00:00:00Z\n")
    schema = pa.schema([pa.field("id", pa.int64()), pa.field("at", pa.timestamp("us", "UTC"))])
    await pair.table(schema)
    replay = pb.ReplayConnector(files=pb.FilesConnector(path=str(pair.folder / "a.csv")), time_column="at", speed=1.0)
    await pair.put(pb.SourceSpec(table=TABLE, replay=replay))
    running = asyncio.create_task(pair.run("r1"))
    name = "namespaces/default/runs/r1"

    async def committed() -> bool:
        try:
            return (await pair.stub.GetRun(pb.GetRunRequest(name=name))).run.progress.rows_written == 1
        except Exception:
            return False

    await pair.until(committed)
    await pair.stub.CancelRun(pb.CancelRunRequest(request_id="c1", name=name))
    assert (await running).state == run_pb2.RUN_STATE_CANCELLED
    assert "until 00:00" in (await pair.status()).activity or (await pair.status()).state == run_pb2.WORK_STATE_IDLE


async def test_programs_push_through_extract_with_their_own_rights(pair: Pair) -> None:
    table = await pair.table()
    await pair.put(pb.SourceSpec(table=TABLE, push=pb.PushConnector()))

    async def frames():  # type: ignore[no-untyped-def]
        yield pb.IngestRequest(open=pb.IngestOpen(source=SOURCE, writer_id="app"))
        for first in range(0, 1000, 100):
            records = [b'{"id": %d, "name": "n"}' % number for number in range(first, first + 99)] + [b"{"]
            raw = pb.RawRecords(records=records, format=pb.RECORD_FORMAT_JSON)
            yield pb.IngestRequest(batch=pb.IngestBatch(offset=first, records=raw))
        yield pb.IngestRequest(finish=pb.IngestFinish())

    answers = [one async for one in pair.stub.Ingest(frames())]
    assert answers[-1].done.next_offset == 1000
    assert sum(one.committed.rows_dead_lettered for one in answers) == 10
    assert len(await numbers(table)) == 990
    assert (await table.info()).dead_letter_count == 10


async def test_sources_and_runs_outlive_extract(pair: Pair) -> None:
    (pair.folder / "a.csv").write_text(HEADER + "1,a,1\n")
    await pair.table()
    await pair.put(files(pair.folder, "*.csv"))
    await pair.run("r1")
    listed = await pair.stub.ListSources(pb.ListSourcesRequest())
    assert [one.name for one in listed.sources] == [SOURCE]
    assert listed.sources[0].owner == "local"
    assert listed.sources[0].status.progress.rows_written == 1
    await pair.stub.DeleteSource(pb.DeleteSourceRequest(request_id="d1", name=SOURCE))
    assert not (await pair.stub.ListSources(pb.ListSourcesRequest())).sources
