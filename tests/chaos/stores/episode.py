"""One episode: replicas of storage over one store, writers, faults from the seed; then every row is counted."""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from millrace.client.append import Appender, AppendOptions
from millrace.client.channel import Connection
from millrace.client.tables import Table
from millrace.errors import MillraceError
from millrace.storage.v1 import storage_pb2, storage_pb2_grpc
from millrace.wire.schema import schema_to_proto
from tests.chaos.fleet import READY_LIMIT_S, EpisodeFailed, Fleet, Service
from tests.chaos.nursery import Nursery
from tests.chaos.plan import Fate
from tests.chaos.proxy import Proxy
from tests.chaos.report import ROOT
from tests.chaos.stores import memory
from tests.chaos.stores.ground import Ground
from tests.chaos.stores.grounds import GROUNDS
from tests.chaos.stores.plan import Plan, Trouble
from tests.chaos.stores.verdict import Verdict, judge
from tests.chaos.stores.writers import Writer
from tests.contract.storage.backends import NAME, SCHEMA

LIMIT_S = 360
LEAST_ROWS = 300
KEPT = ROOT / "build" / "stores"


def replay_command(backend: str, seed: int) -> str:
    return f"python -m tests.chaos.stores --backend {backend} --from {seed} --to {seed} --again"


@dataclass(slots=True)
class Result:
    """What an episode was and how it ended. `failure` "": every row was where it belongs. `troubles`: faults of store and network."""

    backend: str
    seed: int
    theme: str
    seconds: float = 0.0
    kills: int = 0
    troubles: int = 0
    rows: int = 0
    reopened: int = 0
    lost: int = 0
    doubled: int = 0
    failure: str = ""
    kept: str = ""

    def line(self) -> str:
        outcome = "FAILED" if self.failure else "ok"
        return (
            f"{self.backend} seed {self.seed:>3}  {self.theme:<14} {outcome:<6} {self.seconds:5.1f} s  "
            f"kills {self.kills}  troubles {self.troubles}  rows {self.rows}  reopened {self.reopened}  "
            f"lost {self.lost}  doubled {self.doubled}"
        )

    def take(self, verdict: Verdict) -> None:
        self.rows, self.lost, self.doubled = verdict.rows, verdict.lost, verdict.doubled
        self.failure = "\n".join(verdict.faults)


class Stage:
    """What the episodes of a campaign share: the store's servers and the nursery."""

    def __init__(self, backend: str) -> None:
        self._backend = backend
        self._stack = AsyncExitStack()
        self.nursery: Nursery
        self.ground: Ground

    async def __aenter__(self) -> Self:
        if self._backend != "memory":
            self.nursery = self._stack.enter_context(Nursery())
            self.ground = await self._stack.enter_async_context(GROUNDS[self._backend]())
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    async def play(self, plan: Plan) -> Result:
        """Never raises for what storage did wrong: the result says so."""
        result, began = Result(plan.backend, plan.seed, plan.theme), time.monotonic()
        folder = Path(tempfile.mkdtemp(prefix="millrace-stores-"))
        try:
            async with asyncio.timeout(LIMIT_S):
                if plan.backend == "memory":
                    verdict, result.kills = await memory.play(plan, folder)
                    result.take(verdict)
                else:
                    await Episode(plan, folder, self.nursery, self.ground, result).run()
        except AssertionError as wrong:
            result.failure = f"{type(wrong).__name__}: {wrong}"
        except Exception:
            result.failure = traceback.format_exc()
        result.seconds = round(time.monotonic() - began, 1)
        if result.failure:
            kept = KEPT / f"{plan.backend}-{plan.seed}"
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(folder, kept, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.sock"))
            result.kept = str(kept.relative_to(ROOT))
        shutil.rmtree(folder, ignore_errors=True)
        return result


class Supervised(Fleet):
    """Starts a storage again that could not start because its store was in trouble, as a supervisor does: it ended with 1 and one line."""

    excused_until = 0.0

    async def live(self, service: Service, fates: Sequence[Fate]) -> None:
        for fate in fates:
            service.spawn(fate)
            self.died(service, await self._until_dead(service, fate))
        service.spawn()
        while not await service.ready():
            await self._again(service, Fate())

    async def _until_dead(self, service: Service, fate: Fate) -> str:
        while True:
            try:
                return await super()._until_dead(service, fate)
            except EpisodeFailed:
                await self._again(service, fate)

    async def _again(self, service: Service, fate: Fate) -> None:
        if service.running.returncode != 1 or time.monotonic() > self.excused_until:
            raise EpisodeFailed(f"{service.name} ended by itself: {service.running.poll()}\n{service.tail()}")
        await asyncio.sleep(0.2)
        service.spawn(fate)


class Episode:
    def __init__(self, plan: Plan, folder: Path, nursery: Nursery, ground: Ground, result: Result) -> None:
        self.plan, self.ground, self.result = plan, ground, result
        dice = random.Random(f"stores episode {plan.backend} {plan.seed}")
        self.dice = dice
        env = {"storage": {"MILLRACE_STORAGE_BACKEND": ground.backend, **ground.settings(folder)}}
        self.fleet = Supervised(folder, random.Random(f"power {plan.seed}"), nursery=nursery, env=env)
        self.replicas = [self.fleet.storage]
        for number in range(1, len(plan.fates)):
            self.replicas.append(Service(self.fleet, "storage", f"storage-{number}", self.fleet.storage.env))
        self.ways = [Proxy(lambda one=one: one.port) for one in self.replicas]  # type: ignore[misc]
        self.writers: list[Writer] = []
        self.stop = asyncio.Event()
        self._ground_is_whole = asyncio.Lock()  # one trouble of the store at a time

    async def run(self) -> None:
        try:
            await self._run()
        finally:
            for way in self.ways:
                await way.stop()
            await self.fleet.close()
            await self.ground.after(self.fleet.home.root)
            self.result.kills = len(self.fleet.deaths)
            self.result.reopened = sum(one.reopened for one in self.writers)

    async def _run(self) -> None:
        await self.ground.before(self.fleet.home.root)
        for way in self.ways:
            await way.start()
        # Each writer knows all replicas, and begins with one of them.
        doors = [self.fleet.connect(f"127.0.0.1:{way.port}") for way in self.ways]
        self.writers = [
            Writer(n, doors[n % len(doors)], random.Random(self.dice.random()), self.plan.rows_per_s)
            for n in range(self.plan.writers)
        ]
        for _ in range(self.plan.writer_deaths):
            self.dice.choice(self.writers).deaths += 1
        tasks: set[asyncio.Task[Any]] = set()
        try:
            lives = [
                asyncio.create_task(self.fleet.live(one, fates))
                for one, fates in zip(self.replicas, self.plan.fates, strict=True)
            ]
            tasks.update(lives)
            await self._create(doors[0])
            writing = [asyncio.create_task(one.run(self.stop)) for one in self.writers]
            others = [asyncio.create_task(self._trouble(one)) for one in self.plan.troubles]
            least = asyncio.create_task(self._given_enough())
            tasks.update(writing, others, [least])
            await _all_or_first_failure([*lives, *others, least], writing)
            self.stop.set()
            await _all_or_first_failure(writing, [])
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await self._judge()

    async def _given_enough(self) -> None:
        """For a while at least, and until there is something to count."""
        await asyncio.sleep(self.plan.least_s)
        while sum(writer.given for writer in self.writers) < LEAST_ROWS:
            await asyncio.sleep(0.05)

    async def _create(self, person: Connection) -> None:
        stub: Any = storage_pb2_grpc.StorageServiceStub(person.channel)
        table = storage_pb2.Table(name=NAME, schema=schema_to_proto(SCHEMA), event_time_column="at")
        request = storage_pb2.CreateTableRequest(request_id=f"create-{self.plan.seed}", table=table)
        ends = time.monotonic() + READY_LIMIT_S
        while True:
            try:
                await stub.CreateTable(request, metadata=person.metadata(), timeout=5)
                return
            except Exception as error:
                if time.monotonic() > ends:
                    raise EpisodeFailed(f"the table cannot be made: {error}\n{self.fleet.storage.tail()}") from error
                await asyncio.sleep(0.1)

    async def _trouble(self, trouble: Trouble) -> None:
        await asyncio.sleep(trouble.at_s)
        self.result.troubles += 1
        replica = self.replicas[trouble.whom % len(self.replicas)]
        if trouble.what == "stopped":
            with _stopped(replica):
                await asyncio.sleep(trouble.seconds)
        elif trouble.what == "network":
            way = self.ways[trouble.whom % len(self.ways)]
            if trouble.whom % 2:
                way.cut()
            else:
                await way.swallow(trouble.seconds)
        else:
            # Until it is over, and some time for a start that began before.
            async with self._ground_is_whole:
                self.fleet.excused_until = float("inf")
                await self.ground.trouble(trouble)
                self.fleet.excused_until = time.monotonic() + 30

    async def _judge(self) -> None:
        standing: dict[int, tuple[int, int]] = {}
        for number, service in enumerate(self.replicas):
            if not await service.ready():
                raise EpisodeFailed(f"{service.name} is not ready at the end")
            # Every replica gives the same rows.
            person = self.fleet.connect(service.target)
            found = await Table(person, NAME).read(columns=["id"]).to_arrow()
            for writer in self.writers:
                standing[writer.number] = await _standing(person, writer)
            given = {writer.number: writer.given for writer in self.writers}
            verdict = judge(found.column("id").to_pylist(), given, standing)
            verdict.faults = [f"replica {number}: {fault}" for fault in verdict.faults]
            self.result.take(verdict)
            if self.result.failure:
                return
        for service in self.replicas:
            await service.stop()


class _stopped:
    """SIGSTOP for a while; a process that died meanwhile stays dead."""

    def __init__(self, service: Service) -> None:
        self._process = service.running

    def __enter__(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def __exit__(self, *error: object) -> None:
        self._process.send_signal(signal.SIGCONT)


async def _standing(person: Connection, writer: Writer) -> tuple[int, int]:
    appender = Appender(person, AppendOptions(table=NAME, writer_id=writer.id, tries=20))
    try:
        opened = await appender.open()
    except MillraceError as error:
        raise EpisodeFailed(f"{writer.id} cannot be opened at the end: {error}") from error
    finally:
        await appender.aclose()
    position = opened.position.positions.get("row", "0") if opened.position is not None else "0"
    return opened.next_offset, int(position)


async def _all_or_first_failure(wanted: list[asyncio.Task[Any]], watched: list[asyncio.Task[Any]]) -> None:
    """Until all `wanted` ended. Raises what failed first, also of those only watched."""
    pending = set(wanted)
    while pending:
        done, _ = await asyncio.wait(
            {*pending, *(t for t in watched if not t.done())}, return_when=asyncio.FIRST_COMPLETED
        )
        for task in done:
            task.result()
        pending -= done
