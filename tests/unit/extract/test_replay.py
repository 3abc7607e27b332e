"""A file played by event time: all before `live_from` at once, the rest as its time comes, each record once."""

from __future__ import annotations

import asyncio
import datetime as dt
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from millrace.errors import SchemaMismatch, SourcePaused
from millrace.extract.v1 import extract_pb2 as pb
from svc_extract.adapters.connectors.files.listing import Roots
from svc_extract.adapters.connectors.replay.connector import ReplayConnector
from svc_extract.ports import Chunk, Position, SourceSpec, Until, WorkState
from tests.unit.extract.conftest import TABLE, World, make_world

SCHEMA = pa.schema([pa.field("id", pa.int64(), nullable=False), pa.field("at", pa.timestamp("us", "UTC"))])
DAY = dt.datetime(2013, 7, 8, tzinfo=dt.UTC)


class FastClock:
    """Time passes only by sleeping."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now_us(self) -> int:
        return round(self.seconds * 1e6)

    def monotonic_s(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        await asyncio.sleep(0)


def lines(*rows: tuple[object, dt.datetime | None]) -> str:
    return "id,at\n" + "".join(f"{one},{at.isoformat() if at else ''}\n" for one, at in rows)


def hour(number: float) -> dt.datetime:
    return DAY + dt.timedelta(hours=number)


def spec(folder: Path, live_from: dt.datetime | None = None, speed: float = 3600.0, name: str = "a.csv") -> SourceSpec:
    message = pb.ReplayConnector(files=pb.FilesConnector(path=str(folder / name)), time_column="at", speed=speed)
    if live_from is not None:
        message.live_from.FromDatetime(live_from)
    return SourceSpec(table=TABLE, connector="replay", options=message, continuous=True)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path, SCHEMA, event_time_column="at")


async def play(world: World, wanted: SourceSpec, start: Position | None = None) -> list[tuple[float, Chunk]]:
    """Every chunk with the real second it came at."""
    clock = FastClock()
    connector = ReplayConnector(Roots((world.folder.resolve(),), world.folder), clock)
    chunks = connector.read(wanted, world.table.info, start, Until.STOPPED)
    async with aclosing(chunks):
        return [(clock.seconds, chunk) async for chunk in chunks]


def numbers(chunk: Chunk) -> list[Any]:
    return chunk.rows.column("id").to_pylist() if chunk.rows is not None else []


async def test_rows_come_in_the_order_of_time_and_as_it_passes(world: World) -> None:
    rows = [(5, hour(5)), (1, hour(1)), (2, hour(2)), ("x", hour(2)), (3, None), (9, hour(9)), (7, hour(7))]
    (world.folder / "a.csv").write_text(lines(*rows))
    out = await play(world, spec(world.folder, hour(3)))
    loaded = [(second, numbers(chunk)) for second, chunk in out if chunk.records]
    assert loaded[0] == (0.0, [1, 2, 3]), "before live_from at once; a row without time goes with the one before"
    assert [one.reason for one in out[0][1].dead_letters] == ["TYPE"]
    live = [(round(second), found) for second, found in loaded[1:]]
    assert live == [(2, [5]), (4, [7]), (6, [9])], "an hour a second, from live_from on"
    idle = [chunk.activity for _, chunk in out if chunk.activity.startswith("idle")]
    assert idle[0] == "idle, no orders until 05:00"
    assert out[-1][1].activity == "replay finished"


async def test_a_restart_goes_on_where_it_stopped(world: World) -> None:
    (world.folder / "a.csv").write_text(lines(*((number, hour(number)) for number in range(24))))
    whole = await play(world, spec(world.folder))
    for cut in (0, 5, 23):
        position = [chunk.position for _, chunk in whole if chunk.records][cut]
        rest = await play(world, spec(world.folder), position)
        assert [one for _, chunk in rest for one in numbers(chunk)] == list(range(cut + 1, 24))
        assert all(second <= 24 - cut for second, _ in rest), "the pause does not count"


async def test_another_file_is_noticed(world: World) -> None:
    (world.folder / "a.csv").write_text(lines((1, hour(1)), (2, hour(2))))
    position = (await play(world, spec(world.folder)))[0][1].position
    (world.folder / "a.csv").write_text(lines((1, hour(1)), (3, hour(2))))
    with pytest.raises(SourcePaused):
        await play(world, spec(world.folder), position)


@pytest.mark.parametrize("column", ["id", "none"])
async def test_the_time_column_is_a_timestamp_of_the_table(world: World, column: str) -> None:
    (world.folder / "a.csv").write_text(lines((1, hour(1))))
    wanted = spec(world.folder)
    wanted.options.time_column = column
    with pytest.raises(SchemaMismatch, match=column) as refused:
        await world.put(wanted)
    assert refused.value.field == "source.spec.replay.time_column"


async def test_a_broken_quote_stays_one_record_in_any_order(world: World) -> None:
    text = 'id,at\n2,"2013-07-08T02:00:00Z\n3,2013-07-08T03:00:00Z\n1,"2013-07-08T01:00:00Z"\n'
    (world.folder / "a.csv").write_text(text)
    out = await play(world, spec(world.folder, hour(9)))
    assert [one for _, chunk in out for one in numbers(chunk)] == [1, 3]
    assert [one.raw for _, chunk in out for one in chunk.dead_letters] == [b'2,"2013-07-08T02:00:00Z']


async def test_it_finishes_and_stays_finished(world: World) -> None:
    (world.folder / "a.csv").write_text(lines(*((number, hour(number)) for number in range(5))))
    await world.put(spec(world.folder, speed=1_000_000))
    async with world.working():
        source = await world.state(WorkState.FINISHED)
    assert source.status.activity == "replay finished"
    assert source.status.replay_time_us == round(hour(4).timestamp() * 1e6)
    assert [row["id"] for row in world.table.rows()] == list(range(5))
    assert world.table.writers["sources/default/orders"].position.event_time_high_us == source.status.replay_time_us  # type: ignore[union-attr]
    async with world.working():
        await world.state(WorkState.FINISHED)
    assert len(world.table.rows()) == 5
