"""The stalls: what is done to a line that runs, and the hop that must be named for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc

from millrace import errors
from millrace.storage.v1 import freshness_pb2 as pb
from millrace.types.v1 import pipeline_pb2, types_pb2
from svc_storage.domain.freshness import judging
from svc_storage.ports import VersionTaken
from tests.integration.freshness.stage import Line, Stage, until


@dataclass(frozen=True, slots=True)
class Planted:
    """`hop`: whose name is right. `end`: undoes what other lines would feel."""

    hop: str
    end: Callable[[], Awaitable[None]] | None = None
    elsewhere: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stall:
    id: str
    cause: str
    plant: Callable[[Stage, Line], Awaitable[Planted]]


async def _told(stage: Stage, line: Line, cause: str, limit_s: float = 12.0) -> None:
    """Waits until the stall has set in: until storage says so, or time is up and the test says what it says instead."""
    wanted = pb.HopCause.Value(f"HOP_CAUSE_{cause}")

    async def set_in() -> bool:
        try:
            return any(hop.cause == wanted for hop in (await stage.ask(line.clean)).hops)
        except grpc.aio.AioRpcError:  # a transform makes its table anew
            return False

    try:
        await until(set_in, limit_s)
    except TimeoutError:
        return


# -- sources ----------------------------------------------------------------------------------------------------------
async def source_paused(stage: Stage, line: Line) -> Planted:
    line.spec.paused = True
    await stage.put_source(line)
    await _told(stage, line, "SOURCE_PAUSED")
    return Planted(line.source)


async def source_refuses_a_row(stage: Stage, line: Line) -> Planted:
    line.spec.on_bad_row = types_pb2.ON_BAD_ROW_FAIL
    await stage.put_source(line)
    await stage.settled(line)
    for _ in range(5):  # what ended its stream is met with the next rows
        stage.write(line, 1, "no number,x\n")
        await asyncio.sleep(0.5)
    await _told(stage, line, "SOURCE_FAILING")
    return Planted(line.source)


async def source_of_another_shape(stage: Stage, line: Line) -> Planted:
    line.file.write_text("what,is,this\n1,2,3\n")
    await _told(stage, line, "SOURCE_FAILING")
    return Planted(line.source)


# -- leases -----------------------------------------------------------------------------------------------------------
async def source_without_worker(stage: Stage, line: Line) -> Planted:
    """It is stored, and whoever worked on it has let go."""
    lease = f"sources/default/{line.source.rpartition('/')[2]}"
    return await _without_worker(stage, line, line.source, lease)


async def transform_without_worker(stage: Stage, line: Line) -> Planted:
    lease = f"transforms/default/{line.transform.rpartition('/')[2]}"
    return await _without_worker(stage, line, line.transform, lease)


async def _without_worker(stage: Stage, line: Line, hop: str, lease: str) -> Planted:
    """A worker that is dead, or cut off, takes the lease with it: the next one is nobody who renews it."""
    freshness = stage.freshness
    real = freshness._leases

    class Away:
        async def sight(self, name: str) -> object:
            found = await real.sight(name)
            return type(found)(found.holder, found.epoch, held=False, silent_ms=7_000) if name == lease else found

    freshness._leases = Away()

    async def end() -> None:
        freshness._leases = real

    return Planted(hop, end)


# -- transforms -------------------------------------------------------------------------------------------------------
async def transform_paused(stage: Stage, line: Line) -> Planted:
    line.recipe.paused = True
    await stage.put_transform(line)
    await _told(stage, line, "TRANSFORM_PAUSED")
    return Planted(line.transform)


async def transform_refuses_a_row(stage: Stage, line: Line) -> Planted:
    line.recipe.sql = f"SELECT CAST(name AS BIGINT) AS id, name FROM {line.raw.rpartition('/')[2]}"
    await stage.put_transform(line)
    await _told(stage, line, "TRANSFORM_FAILING")
    return Planted(line.transform)


async def transform_behind(stage: Stage, line: Line) -> Planted:
    """Its worker is at something that takes long."""
    real, gate = stage.worker._runner, asyncio.Event()

    class Slow:
        async def run(self, recipe: Any, *args: Any, **rest: Any) -> Any:
            if recipe.name == line.transform:
                await gate.wait()
            return await real.run(recipe, *args, **rest)

    stage.worker._runner = Slow()
    stage.write(line, 5)
    await _told(stage, line, "TRANSFORM_BEHIND")

    async def end() -> None:
        stage.worker._runner = real
        gate.set()

    return Planted(line.transform, end)


# -- tables -----------------------------------------------------------------------------------------------------------
def letters(text: str, share: float) -> Callable[[Stage, Line], Awaitable[Planted]]:
    """From now on `share` of the rows break the table's contract."""

    async def plant(stage: Stage, line: Line) -> Planted:
        bad = 200
        stage.write(line, bad, text)
        if share < 1:
            stage.write(line, int(bad / share) - bad)
        await _told(stage, line, "DEAD_LETTERS_RISING")
        return Planted(line.raw)

    return plant


def store(error: Callable[[], Exception] | None, cause: str, hop: str) -> Callable[[Stage, Line], Awaitable[Planted]]:
    """Commits to one table fail, or (None) are not answered."""

    async def plant(stage: Stage, line: Line) -> Planted:
        name = getattr(line, hop)
        landing = (await stage.open(name)).committer.landing
        real, gate = landing.log, asyncio.Event()

        class Away:
            def __getattr__(self, attribute: str) -> object:
                return getattr(real, attribute)

            async def append(self, commit: object, *, after: int) -> int:
                if error is not None:
                    raise error()
                await gate.wait()
                return int(await real.append(commit, after=after))  # type: ignore[arg-type]

        landing.log = Away()  # type: ignore[assignment]
        stage.write(line, 5)
        await _told(stage, line, cause)

        async def end() -> None:
            landing.log = real
            gate.set()

        return Planted(name, end)

    return plant


async def reads_away(stage: Stage, line: Line) -> Planted:
    """The store does not answer reads either."""
    table = await stage.open(line.raw)
    real = table.refresh

    async def away() -> None:
        raise errors.StoreUnavailable("the bucket does not answer")

    table.refresh = away  # type: ignore[method-assign]

    async def end() -> None:
        table.refresh = real  # type: ignore[method-assign]

    return Planted(line.raw, end)


# -- subscribers, services --------------------------------------------------------------------------------------------
async def reader_behind(stage: Stage, line: Line) -> Planted:
    """A program with a named reader does not read on."""
    name = f"namespaces/default/readers/{stage.id()}"
    uid = (await stage.open(line.clean)).row.uid
    spec = pipeline_pb2.ReaderSpec(table=line.clean, table_uid=uid)
    await stage.resources.put(name, spec, status=pipeline_pb2.ReaderStatus(version=0), overwrite=True)
    real = judging.READER_LATE_US
    judging.READER_LATE_US = 1_000_000
    await _told(stage, line, "SUBSCRIBER_BEHIND")

    async def end() -> None:
        judging.READER_LATE_US = real

    return Planted(name, end)


def not_there(area: str) -> Callable[[Stage, Line], Awaitable[Planted]]:
    """Nothing listens where the service should."""

    async def plant(stage: Stage, line: Line) -> Planted:
        return Planted(area, elsewhere={area: "127.0.0.1:9"})

    return plant


def _away() -> Exception:
    return errors.StoreUnavailable("the bucket does not answer")


def _full() -> Exception:
    return errors.DiskFull("no space is left")


def _lost() -> Exception:
    return VersionTaken()


STALLS = (
    Stall("source paused", "SOURCE_PAUSED", source_paused),
    Stall("source refuses a row", "SOURCE_FAILING", source_refuses_a_row),
    Stall("source of another shape", "SOURCE_FAILING", source_of_another_shape),
    Stall("source without worker", "LEASE_NOT_HELD", source_without_worker),
    Stall("transform without worker", "LEASE_NOT_HELD", transform_without_worker),
    Stall("transform paused", "TRANSFORM_PAUSED", transform_paused),
    Stall("transform refuses a row", "TRANSFORM_FAILING", transform_refuses_a_row),
    Stall("transform behind", "TRANSFORM_BEHIND", transform_behind),
    Stall("all rows are bad", "DEAD_LETTERS_RISING", letters("no number,{i}\n", 1.0)),
    Stall("most rows lack a value", "DEAD_LETTERS_RISING", letters(",name {i}\n", 0.7)),
    Stall("most rows have too many values", "DEAD_LETTERS_RISING", letters("{i},a,b,c\n", 0.8)),
    Stall("the store refuses raw commits", "STORE_AWAY", store(_away, "STORE_AWAY", "raw")),
    Stall("the store refuses clean commits", "STORE_AWAY", store(_away, "STORE_AWAY", "clean")),
    Stall("the disk is full", "STORE_AWAY", store(_full, "STORE_AWAY", "raw")),
    Stall("the store does not answer", "STORE_AWAY", store(None, "STORE_AWAY", "raw")),
    Stall("the store does not answer for clean", "STORE_AWAY", store(None, "STORE_AWAY", "clean")),
    Stall("reads of raw fail", "STORE_AWAY", reads_away),
    Stall("raw loses every race", "COMMIT_CONFLICTS", store(_lost, "COMMIT_CONFLICTS", "raw")),
    Stall("clean loses every race", "COMMIT_CONFLICTS", store(_lost, "COMMIT_CONFLICTS", "clean")),
    Stall("a reader is behind", "SUBSCRIBER_BEHIND", reader_behind),
    Stall("extract is not there", "SERVICE_NOT_READY", not_there("extract")),
    Stall("storage is not there", "SERVICE_NOT_READY", not_there("storage")),
    Stall("transform is not there", "SERVICE_NOT_READY", not_there("transform")),
    Stall("analysis is not there", "SERVICE_NOT_READY", not_there("analysis")),
    Stall("viz is not there", "SERVICE_NOT_READY", not_there("viz")),
)
