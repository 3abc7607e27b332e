"""Episodes over memory, in one process: what is committed is the "disk", everything else is thrown away at a kill.

There is no process to kill, so the deaths are exact: at a drawn call of log or files, before it or after it, the storage around
them is gone. "stopped" lets a second storage take the table over while the first one sleeps.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from millrace import errors
from svc_storage.adapters.memory.backend import MemoryBackend
from svc_storage.adapters.memory.control import MemoryControl
from svc_storage.domain.opened import OpenTable
from svc_storage.domain.upkeep import Policy, Upkeep
from svc_storage.domain.writing.appending import AppendStream
from tests.chaos.lost_answers import Losses
from tests.chaos.stores.plan import Plan
from tests.chaos.stores.verdict import Verdict, judge
from tests.chaos.stores.writers import SPAN
from tests.contract.storage.backends import NAME, Rig, ids, incoming, rows

POLICY = Policy(checkpoint_every=5, keep_log_us=0, keep_versions=4, trim_every_us=0)
ROUNDS = 40
MORTAL = ("append", "write", "checkpoint", "trim", "read_after", "recover", "put_record")


@dataclass
class Death:
    """Waits for its moment: the `hit`-th of the mortal calls (0: never), before or after the call has done its work.

    From then on nothing goes on, until it is `woken`: that is how a stopped process differs from a dead one."""

    hit: int = 0
    after: bool = False
    done: asyncio.Event = field(default_factory=asyncio.Event)
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    calls: int = 0

    async def around(self, call: Callable[[], Any]) -> Any:
        self.calls += 1
        mine = self.calls == self.hit
        if self.done.is_set() or (mine and not self.after):
            await self._stand_still()
        result = await call()
        if self.done.is_set() or mine:
            await self._stand_still()
        return result

    async def _stand_still(self) -> None:
        self.done.set()
        await self.woken.wait()  # a dead one is cancelled here


class Mortal:
    """A port of a storage that may die at any call of it."""

    def __init__(self, port: Any, death: Death) -> None:
        self._port, self._death = port, death

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._port, name)
        if name not in MORTAL:
            return found
        return lambda *args, **more: self._death.around(lambda: found(*args, **more))


@dataclass
class World(MemoryBackend):
    """The disk, with ports that die as `death` says and answers that get lost."""

    disk: MemoryBackend = field(default_factory=MemoryBackend)
    losses: Losses = field(default_factory=lambda: Losses({}))
    death: Death = field(default_factory=Death)

    def open(self, uid: str) -> Any:
        log, files = self.disk.open(uid)
        return (
            Mortal(self.losses.wrap(log, "CommitLog"), self.death),
            Mortal(self.losses.wrap(files, "TableFiles"), self.death),
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self.disk, name)


class _Nobody:
    async def slowest(self, table_uid: str) -> None:
        return None


@dataclass
class Life:
    """One storage over the disk, from its start to its death."""

    rig: Rig
    table: OpenTable
    tasks: list[asyncio.Task[Any]] = field(default_factory=list)
    turns: set[asyncio.Task[Any]] = field(default_factory=set)

    def __post_init__(self) -> None:
        committer: Any = self.table.committer
        turn = committer.turn

        async def noted(work: Callable[[], Any]) -> Any:
            me = asyncio.current_task()
            assert me is not None
            self.turns.add(me)
            return await turn(work)

        committer.turn = noted

    async def end(self) -> None:
        committer = self.table.committer._task
        for task in [*self.tasks, *([committer] if committer else [])]:
            task.cancel()
        for ended in await asyncio.gather(*self.tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended
        if committer:
            await asyncio.wait([committer])
        self.table.committer._finish(errors.StreamDraining("dead"))  # nobody waits for a turn of it any more
        # Except for the one that it was in: a process would have died with it.
        unfinished = [task for task in self.turns if not task.done() and task is not asyncio.current_task()]
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)


async def play(plan: Plan, folder: Path) -> tuple[Verdict, int]:
    """(verdict, deaths)."""
    dice = random.Random(f"memory {plan.seed}")
    disk, control, pool = MemoryBackend(), MemoryControl(), ThreadPoolExecutor(1)
    given = dict.fromkeys(range(plan.writers), 0)
    acked = dict.fromkeys(given, 0)
    deaths = 0
    lives = sum(map(len, plan.fates)) + len(plan.troubles) + 2
    sleeper: Life | None = None
    try:
        for number in range(lives):
            last = number == lives - 1
            death = Death(0 if last else dice.randint(2, 60), dice.random() < 0.5)
            losses = Losses(_losses(dice)) if plan.theme == "lost answers" and not last else Losses({})
            life = await _start(folder, disk, control, pool, death, losses, first=number == 0)
            waking = asyncio.create_task(_woken(sleeper)) if sleeper else None
            await _writing(life, given, acked, dice, last=last)
            if waking is not None:
                await waking
            sleeper = None
            deaths += not last
            if plan.theme == "stopped" and not last:
                sleeper = life
            elif not last:
                await life.end()
        standing = {n: _standing(life.table, n) for n in given}
        verdict = judge(ids(life.table), given, standing)
        verdict.faults += [
            f"writer {n}: {acked[n]} acknowledged, {given[n]} given" for n in given if acked[n] != given[n]
        ]
        await life.end()
        return verdict, deaths
    finally:
        pool.shutdown()


def _losses(dice: random.Random) -> dict[str, frozenset[int]]:
    return {method: frozenset(dice.sample(range(1, 25), 3)) for method in ("CommitLog.append", "TableFiles.write")}


async def _start(
    folder: Path,
    disk: MemoryBackend,
    control: MemoryControl,
    pool: ThreadPoolExecutor,
    death: Death,
    losses: Losses,
    *,
    first: bool,
) -> Life:
    quiet = World(disk=disk)
    rig = Rig(folder, quiet, pool, control=control)
    if first:
        await rig.create()
        await rig.opened.close()
    mortal = World(disk=disk, losses=losses, death=death)
    rig = Rig(folder, mortal, pool, control=control)
    # Dying while the log is recovered is drawn like any other moment; the next life does that work.
    opening = asyncio.create_task(rig.opened.table(NAME))
    dying = asyncio.create_task(death.done.wait())
    await asyncio.wait([opening, dying], return_when=asyncio.FIRST_COMPLETED)
    dying.cancel()
    if not opening.done():
        opening.cancel()
        return await _start(folder, disk, control, pool, Death(), Losses({}), first=False)
    life = Life(rig, await opening)
    upkeep = Upkeep(rig.opened, rig.catalog, mortal, _Nobody(), rig.clock, POLICY)
    life.tasks.append(asyncio.create_task(_tending(upkeep, life.table)))
    return life


async def _tending(upkeep: Upkeep, table: OpenTable) -> None:
    while True:
        await asyncio.sleep(0.002)
        with contextlib.suppress(errors.MillraceError):
            await upkeep.tend(table)


async def _writing(
    life: Life, given: dict[int, int], acked: dict[int, int], dice: random.Random, *, last: bool
) -> None:
    """Until the storage dies, or all that was given is acknowledged."""
    writers = [asyncio.create_task(_writer(life, n, given, acked, random.Random(dice.random()), last)) for n in given]
    world = life.rig.backend
    assert isinstance(world, World)
    dying = asyncio.create_task(world.death.done.wait())
    everyone = asyncio.gather(*writers, return_exceptions=True)
    await asyncio.wait([everyone, dying], return_when=asyncio.FIRST_COMPLETED, timeout=20 if last else 2)
    dying.cancel()
    if last and not everyone.done():
        raise AssertionError("the last storage does not acknowledge")
    for task in writers:
        task.cancel()
    for outcome in await everyone:
        if isinstance(outcome, AssertionError) or (
            isinstance(outcome, Exception) and not isinstance(outcome, errors.MillraceError)
        ):
            raise outcome


async def _writer(
    life: Life, number: int, given: dict[int, int], acked: dict[int, int], dice: random.Random, last: bool
) -> None:
    rounds = 0
    while True:
        try:
            stream = await life.rig.open(f"writer-{number}", interval_s=0.002)
            if stream.next_offset < acked[number]:
                raise AssertionError(f"{acked[number]} acknowledged, {stream.next_offset} stored")
            if int(stream.opened.positions.get("row", 0)) != stream.next_offset:
                raise AssertionError(f"position {dict(stream.opened.positions)} at {stream.next_offset}")
            offset = stream.next_offset
            while (rounds < ROUNDS and not (last and rounds > 5)) or offset < given[number]:
                rounds += 1
                count = dice.randint(1, 9)
                if last and rounds > 5:
                    count = min(count, max(1, given[number] - offset))
                given[number] = max(given[number], offset + count)
                await _append(stream, number, offset, count)
                offset += count
                if dice.random() < 0.5:
                    await stream.settle()
                    acked[number] = max(acked[number], stream.next_offset)
            await stream.finish()
            acked[number] = max(acked[number], stream.next_offset)
            return
        except (
            errors.WriterFenced
        ):  # by the late opening of a program that is gone: this one goes on under the next epoch
            continue
        except (errors.OutcomeUnknown, errors.RetryLater, errors.Unexpected, errors.Reload):
            await asyncio.sleep(0.002)


async def _append(stream: AppendStream, number: int, offset: int, count: int) -> None:
    one = incoming(offset, count, positions={"row": str(offset + count)})
    await stream.append(replace(one, rows=rows(count, number * SPAN + offset)))


async def _woken(sleeper: Life) -> None:
    """What slept while its successor began goes on where it stood: it may commit only what does not contradict the log."""
    world = sleeper.rig.backend
    assert isinstance(world, World)
    world.death.hit = 0
    world.death.done.clear()
    world.death.woken.set()
    await asyncio.sleep(0.03)
    await sleeper.end()


def _standing(table: OpenTable, number: int) -> tuple[int, int]:
    state = table.versions.head.writers.get(f"writer-{number}")
    return (state.next_offset, int(state.positions.get("row", 0))) if state else (0, 0)
