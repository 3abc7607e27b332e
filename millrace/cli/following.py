"""Follows a pipeline's continuous sources and its transforms until what was there at the start is loaded."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from millrace.cli.grid import counted
from millrace.cli.kinds import get_source, get_table, get_transform, short_name
from millrace.cli.progress import Reporter, Task
from millrace.cli.session import Session
from millrace.cli.terminal import note
from millrace.extract.v1 import extract_pb2
from millrace.pipeline.spec import Pipeline
from millrace.types.v1 import run_pb2

_LOOK_EVERY_S = 0.3
_LIMIT_S = 900.0
_COMMIT_LIMIT_S = 10.0
_STOPPED = (run_pb2.WORK_STATE_PAUSED, run_pb2.WORK_STATE_FINISHED)


async def follow(session: Session, pipeline: Pipeline, reporter: Reporter) -> None:
    """Shows rows, rate and time left per source. Ends when all have caught up (a replay: when it plays live) or stopped."""
    sources = [source for source in pipeline.sources if source.spec.continuous]
    try:
        async with asyncio.timeout(_LIMIT_S):
            await asyncio.gather(*(_follow_source(session, source, reporter) for source in sources))
            await asyncio.gather(
                *(_follow_output(session, pipeline, at, reporter) for at in range(len(pipeline.transforms)))
            )
    except TimeoutError:
        note("loading goes on in the background; `millrace status` shows how far it is")


async def _follow_source(session: Session, wanted: extract_pb2.Source, reporter: Reporter) -> None:
    name = short_name(wanted.name)
    task: Task | None = None
    while True:
        source = await get_source(session, wanted.name)
        status = source.status
        if _caught_up(wanted, status) or status.state in _STOPPED:
            break
        task = task or reporter.start(name)
        progress = status.progress
        said = status.cause if status.state == run_pb2.WORK_STATE_BACKING_OFF else status.activity
        reporter.update(task, progress.rows_written, progress.fraction, said)
        await asyncio.sleep(_LOOK_EVERY_S)
    if task is not None:
        await _committed(session, wanted, status.progress)
        table = await get_table(session, wanted.spec.table)  # a status is told once a second, its table is always true
        task.done = max(task.done, table.row_count)
        note(f"{name}: {reporter.finish(task)}, {counted(table.dead_letter_count, 'dead letters')}")
    if status.state in _STOPPED and status.cause:
        note(
            f"{name}: {run_pb2.WorkState.Name(status.state).removeprefix('WORK_STATE_').lower()}: {status.cause}",
            "yellow",
        )


async def _committed(session: Session, wanted: extract_pb2.Source, seen: run_pb2.RunProgress) -> None:
    """What was read by then may be on its way still, on a store that takes its time. One writer commits in order: a row of the live part
    says the same as the counts, which a broken-off read moves apart."""
    live_from = wanted.spec.replay.live_from.ToNanoseconds()
    with suppress(TimeoutError):
        async with asyncio.timeout(_COMMIT_LIMIT_S):
            while True:
                done = (await get_source(session, wanted.name)).status.progress
                if done.rows_written + done.rows_dead_lettered >= seen.rows_read:
                    break
                table = await get_table(session, wanted.spec.table)
                if live_from and table.event_time_high.ToNanoseconds() >= live_from:
                    break
                await asyncio.sleep(_LOOK_EVERY_S)


def _caught_up(wanted: extract_pb2.Source, status: extract_pb2.SourceStatus) -> bool:
    replay = wanted.spec.replay
    if wanted.spec.WhichOneof("connector") == "replay" and replay.HasField("live_from"):
        return status.replay_time.ToNanoseconds() >= replay.live_from.ToNanoseconds()
    return status.state == run_pb2.WORK_STATE_IDLE or status.progress.fraction >= 1.0


async def _follow_output(session: Session, pipeline: Pipeline, at: int, reporter: Reporter) -> None:
    """Until the transform has read the versions that its driving table had when this began."""
    wanted = pipeline.transforms[at]
    driving = wanted.spec.driving_table
    if not driving:
        return
    until = (await get_table(session, driving)).version
    name = short_name(wanted.name)
    task: Task | None = None
    while True:
        status = (await get_transform(session, wanted.name)).status
        if _read_up_to(status.inputs, driving) >= until or status.state in _STOPPED:
            break
        task = task or reporter.start(name)
        trouble = status.cause if status.state == run_pb2.WORK_STATE_BACKING_OFF else ""
        reporter.update(task, status.progress.rows_written, 0.0, trouble)
        await asyncio.sleep(_LOOK_EVERY_S)
    if task is not None:
        task.done = max(task.done, status.progress.rows_written)
        note(f"{name}: {reporter.finish(task)}")


def _read_up_to(inputs: Sequence[run_pb2.RunInput], table: str) -> int:
    return max((one.version for one in inputs if one.table == table), default=-1)
