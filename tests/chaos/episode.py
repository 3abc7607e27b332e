"""One episode: three services, rows from several sources, a transform, faults from the seed; then every row is counted."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from millrace import errors
from millrace.client import status
from millrace.client.channel import Connection
from millrace.client.tables import Table
from millrace.extract.v1 import extract_pb2, extract_pb2_grpc
from millrace.storage.v1 import storage_pb2, storage_pb2_grpc
from millrace.transform.v1 import transform_pb2, transform_pb2_grpc
from millrace.types.v1 import run_pb2
from millrace.wire.schema import schema_to_proto
from tests.chaos.check import RECIPE, Verdict, judge, look
from tests.chaos.fleet import EpisodeFailed, Fleet, Service
from tests.chaos.nursery import Nursery
from tests.chaos.plan import Plan, Trouble, draw
from tests.chaos.sources import OUTPUT, SCHEMA, TABLE, Account, CsvSource, PostgresSource, Pusher

CATCH_UP_LIMIT_S = 90.0
LEAST_ROWS = 2_000
"""Of the CSV alone: an episode without any kill goes on until then."""
SOURCE = "namespaces/default/sources/{}"
Postgres = tuple[str, Callable[[str], object]]
"""(URI, runs SQL)"""
TRANSFORM = "namespaces/default/transforms/doubled"


@dataclass(slots=True)
class Result:
    """What an episode was and how it ended. `failure` "": every row was where it belongs."""

    seed: int
    theme: str
    seconds: float = 0.0
    failure: str = ""
    verdict: Verdict = field(default_factory=Verdict)
    deaths: list[dict[str, Any]] = field(default_factory=list)
    cuts: int = 0
    refused: str = ""
    pushers: int = 0
    ghosts: int = 0
    reopened: int = 0
    log_errors: list[str] = field(default_factory=list)

    def line(self) -> str:
        """One line of progress."""
        verdict, power = self.verdict, sum(one["lost"] is not None for one in self.deaths)
        outcome = "FAILED" if self.failure else "ok"
        return (
            f"seed {self.seed:>4}  {self.theme:<22} {outcome:<6} {self.seconds:5.1f} s  kills {len(self.deaths)} ({power} with power loss)"
            f"  rows {verdict.rows}  dead {verdict.dead_letters}  derived {verdict.derived}  lost {verdict.lost}  doubled {verdict.doubled}"
        )


def replay_command(seed: int) -> str:
    return f"python -m tests.chaos --from {seed} --to {seed}"


class Episode:
    """`bug`: a planted one, for storage. `postgres`: runs SQL on a real server and gives its address, for the episodes that want one."""

    def __init__(
        self, plan: Plan, folder: Path, nursery: Nursery, *, postgres: Postgres | None = None, bug: str = ""
    ) -> None:
        self.plan, self.dice = plan, random.Random(f"episode {plan.seed}")
        env: dict[str, Mapping[str, str]] = {"storage": {"MILLRACE_CHAOS_BUG": bug}}
        if postgres is not None:
            env["extract"] = {"MILLRACE_SECRET_PG": postgres[0]}
        self.fleet = Fleet(folder, random.Random(f"power {plan.seed}"), nursery=nursery, env=env)
        self.stop = asyncio.Event()
        self.result = Result(plan.seed, plan.theme)
        self.csv = CsvSource(self.fleet.files, random.Random(f"csv {plan.seed}"), plan.rows_per_s)
        self.pg = (
            PostgresSource(postgres[1], random.Random(f"pg {plan.seed}"), plan.rows_per_s // 2)
            if postgres and plan.postgres
            else None
        )
        self.pusher: Pusher | None = None

    @property
    def accounts(self) -> list[Account]:
        found = [self.csv.account]
        found += [self.pusher.account] if self.pusher else []
        return found + ([self.pg.account] if self.pg else [])

    async def run(self) -> Result:
        """Never raises for what the services did wrong: the result says so."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(300):
                await self._run()
        except Exception as error:
            self.result.failure = (
                f"{type(error).__name__}: {error}" if isinstance(error, AssertionError) else traceback.format_exc()
            )
        finally:
            await self.fleet.close()
        self.result.seconds = round(time.monotonic() - began, 1)
        self.result.deaths = [asdict(death) for death in self.fleet.deaths]
        self.result.cuts = sum(way.cuts for way in self.fleet.ways.values())
        self.result.log_errors = log_errors(self.fleet.home.root)
        if self.pusher is not None:
            self.result.pushers, self.result.ghosts = self.pusher.opens, self.pusher.refused
            self.result.reopened = self.pusher.reopened
        return self.result

    async def _run(self) -> None:
        fleet = self.fleet
        await fleet.start_proxies()
        async with _together() as tasks:
            lives = [tasks.create_task(fleet.live(one, self.plan.fates.get(one.area, ()))) for one in fleet.services]
            person = fleet.connect(f"127.0.0.1:{fleet.ways['pusher'].port}")
            await self._set_up(person)
            self.pusher = Pusher(
                person, random.Random(f"push {self.plan.seed}"), self.plan.rows_per_s, self.plan.pusher_deaths
            )
            giving = [tasks.create_task(one.run(self.stop)) for one in (self.csv, self.pusher, self.pg) if one]
            others = [tasks.create_task(self._trouble(one)) for one in self.plan.troubles]
            others += [tasks.create_task(self._replace_source())] if self.plan.replaced else []
            least = tasks.create_task(self._until(self._given_enough, "rows were given"))
            await asyncio.gather(*lives, *others, least)
            if self.plan.zombie:
                await self._zombie()
            self.stop.set()
            await asyncio.gather(*giving)
            await self._caught_up(person)
        for service in fleet.services:
            if not await service.ready():
                raise EpisodeFailed(f"{service.name} is not ready at the end")
        seen = await look(fleet.connect(fleet.storage.target))
        for service in (fleet.extract, fleet.transform, fleet.storage):
            await service.stop()
        self.result.verdict = judge(seen, fleet.home.root / "data", self.accounts, fleet.files)
        self.result.failure = "\n".join(self.result.verdict.faults)

    # -- set-up --------------------------------------------------------------------------------------------------------
    async def _set_up(self, person: Connection) -> None:
        """Table, sources, transform; asked for again, with the same request id, until there is an answer."""
        fleet = self.fleet
        storage: Any = storage_pb2_grpc.StorageServiceStub(person.channel)
        table = storage_pb2.Table(name=TABLE, schema=schema_to_proto(SCHEMA), event_time_column="at")
        await insist(person, storage.CreateTable, storage_pb2.CreateTableRequest(request_id="table", table=table))
        if self.pg is not None:
            await self.pg.create()
        for name in ("file", "pg") if self.pg else ("file",):
            await self._put_source(name, "first")
        transform = fleet.connect(fleet.transform.target)
        stub: Any = transform_pb2_grpc.TransformServiceStub(transform.channel)
        spec = transform_pb2.TransformSpec(sql=RECIPE, output=OUTPUT)
        wanted = transform_pb2.Transform(name=TRANSFORM, spec=spec)
        await insist(
            transform, stub.PutTransform, transform_pb2.PutTransformRequest(request_id="transform", transform=wanted)
        )

    async def _put_source(self, name: str, description: str) -> None:
        extract = self.fleet.connect(self.fleet.extract.target)
        stub: Any = extract_pb2_grpc.ExtractServiceStub(extract.channel)
        spec = extract_pb2.SourceSpec(table=TABLE, continuous=True, description=description)
        spec.commit_interval.FromMilliseconds(100)
        if name == "file":
            spec.files.path = str(self.fleet.files / "*.csv")
            spec.files.poll_interval.FromMilliseconds(100)
        else:
            spec.sql.CopyFrom(extract_pb2.SqlConnector(driver="postgresql", connection="env:MILLRACE_SECRET_PG", table="src",
                                                       cursor_column="id", key_columns=["id"]))  # fmt: skip
            spec.sql.poll_interval.FromMilliseconds(100)
        source = extract_pb2.Source(name=SOURCE.format(name), spec=spec)
        await insist(
            extract, stub.PutSource, extract_pb2.PutSourceRequest(request_id=f"{name} {description}", source=source)
        )

    # -- what goes wrong ---------------------------------------------------------------------------------------------------
    async def _trouble(self, trouble: Trouble) -> None:
        await asyncio.sleep(trouble.at_s)
        way = self.fleet.ways[trouble.who]
        if trouble.what == "cut":
            way.cut()
        elif trouble.what == "half-open":
            await way.swallow(trouble.seconds)
        else:
            way.delay(self.dice.uniform(0.01, 0.2), trouble.seconds)

    async def _replace_source(self) -> None:
        """Another description is another spec: the session ends in order, and the next one begins."""
        for number in range(self.plan.replaced):
            await asyncio.sleep(self.dice.uniform(2.0, 5.0))
            await self._put_source("file", f"change {number}")

    async def _zombie(self) -> None:
        """extract stops past its lease, a second one takes over, the first wakes up."""
        fleet, first = self.fleet, self.fleet.extract
        before = await self._source_epoch(first)
        first.running.send_signal(signal.SIGSTOP)
        second = fleet.extract = fleet.another_extract("extract-2")
        second.spawn()
        await second.ready()
        await self._until(lambda: self._took_over(second, before), "the second extract takes over")
        first.running.send_signal(signal.SIGCONT)
        await self._until(lambda: _async(refusal(first)), "the first extract is refused")
        self.result.refused = refusal(first)
        await asyncio.sleep(self.dice.uniform(0.5, 2.0))
        first.kill()
        fleet.died(first, "after SIGSTOP")

    async def _source_epoch(self, service: Service) -> int:
        await self._until(lambda: self._took_over(service, 0), "extract works")
        return (await self._status(service)).epoch

    async def _took_over(self, service: Service, above: int) -> bool:
        found = await self._status(service)
        return bool(found.epoch > above and found.state == run_pb2.WORK_STATE_RUNNING and found.progress.version)

    async def _status(self, service: Service) -> extract_pb2.SourceStatus:
        extract = self.fleet.connect(service.target)
        stub: Any = extract_pb2_grpc.ExtractServiceStub(extract.channel)
        return (
            await insist(extract, stub.GetSource, extract_pb2.GetSourceRequest(name=SOURCE.format("file")))
        ).source.status

    # -- the end ---------------------------------------------------------------------------------------------------------
    async def _caught_up(self, person: Connection) -> None:
        good = [one for account in self.accounts for one in account.good]
        wanted = (len(good), sum(len(account.bad) for account in self.accounts), sum(one % 3 != 0 for one in good))
        table, output = Table(person, TABLE), Table(person, OUTPUT)
        found: tuple[int, ...] = ()

        async def there() -> bool:
            nonlocal found
            try:
                rows, derived = await table.info(), await output.info()
            except errors.TableNotFound:
                return False  # a full refresh makes the output anew
            found = (rows.row_count, rows.dead_letter_count, derived.row_count)
            return all(have >= need for have, need in zip(found, wanted, strict=True))

        try:
            await self._until(there, "everything is there", CATCH_UP_LIMIT_S)
        except EpisodeFailed as late:
            raise EpisodeFailed(
                f"rows, dead letters, derived rows: {found} of {wanted} after {CATCH_UP_LIMIT_S:g} s"
            ) from late

    async def _given_enough(self) -> bool:
        return self.csv.account.given >= LEAST_ROWS

    async def _until(self, true: Callable[[], Any], what: str, limit_s: float = 60.0) -> None:
        ends = time.monotonic() + limit_s
        while not await true():
            if time.monotonic() > ends:
                raise EpisodeFailed(f"not within {limit_s:g} s: {what}")
            await asyncio.sleep(0.1)


async def _async(value: Any) -> Any:
    return value


def refusal(service: Service) -> str:
    """Why this process was refused, by its own log: WRITER_FENCED or LEASE_LOST; "" when it was not yet."""
    text = service.log.read_text(errors="replace")
    return next((reason for reason in ("WRITER_FENCED", "LEASE_LOST") if reason in text), "")


def log_errors(root: Path) -> list[str]:
    """Messages of level ERROR or FATAL, each once: nothing was lost by them, but a person should look."""
    found: dict[str, None] = {}
    for path in root.glob("*.log"):
        for line in path.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if "was lost" in line and "lost_answers" in line:
                    continue  # the wrapper's own
                if entry.get("level") in ("ERROR", "FATAL") or entry.get("reason") == "UNEXPECTED":
                    found[f"{path.stem}: {entry.get('message')} {str(entry.get('exception', ''))[-400:]}"] = None
    return list(found)


async def insist(connection: Connection, method: Any, request: Any, limit_s: float = 60.0) -> Any:
    """One call, again until it is answered: connections break and services start meanwhile."""
    ends = time.monotonic() + limit_s
    while True:
        try:
            return await status.raising(method(request, metadata=connection.metadata(), timeout=10.0))
        except status.CALL_ERRORS as error:
            failure = status.error_of(error)
            if time.monotonic() > ends or isinstance(failure, errors.FixRequest | errors.Broken | errors.Exists):
                raise failure from error
            await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def _together() -> AsyncIterator[asyncio.TaskGroup]:
    """A task group that raises the one failure itself."""
    try:
        async with asyncio.TaskGroup() as tasks:
            yield tasks
    except BaseExceptionGroup as several:
        raise several.exceptions[0] from None


async def play(
    seed: int, nursery: Nursery, *, keep: Path | None = None, bug: str = "", postgres: Postgres | None = None
) -> Result:
    """One episode by its seed. What a failed one left is kept below `keep`."""
    folder = Path(tempfile.mkdtemp(prefix=f"millrace-chaos-{seed}-"))
    try:
        result = await Episode(draw(seed), folder / "home", nursery, postgres=postgres, bug=bug).run()
        if result.failure and keep is not None:
            target = keep / f"seed-{seed}"
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(folder / "home", target, ignore_dangling_symlinks=True)
        return result
    finally:
        shutil.rmtree(folder, ignore_errors=True)
