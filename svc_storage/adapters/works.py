"""Sources, transforms and named readers as `Work` and `ReaderSight`, from the resources that their services wrote."""

from __future__ import annotations

from collections.abc import Sequence

from millrace.extract.v1 import extract_pb2
from millrace.transform.v1 import transform_pb2
from millrace.types.v1 import pipeline_pb2, run_pb2
from svc_storage.adapters.stored import READER_KEPT_US, every, unpacked
from svc_storage.domain.control.resources import Resources
from svc_storage.domain.freshness.works import ReaderSight, Work
from svc_storage.ports import Clock, Resource

_DELAY_US = 200_000
"""What an unset `max_delay` means."""


class ResourceWorks:
    """`Pipelines` over the resource store."""

    def __init__(self, resources: Resources, clock: Clock) -> None:
        self._resources, self._clock = resources, clock

    async def works(self) -> Sequence[Work]:
        sources = [_source(one) async for one in every(self._resources, "sources")]
        return [*sources, *[_transform(one) async for one in every(self._resources, "transforms")]]

    async def readers(self, table_uid: str) -> Sequence[ReaderSight]:
        oldest_us = self._clock.now_us() - READER_KEPT_US
        found = []
        async for one in every(self._resources, "readers"):
            if one.updated_us < oldest_us or "/readers/transforms/" in one.name:
                continue
            if unpacked(one.spec, pipeline_pb2.ReaderSpec()).table_uid == table_uid:
                status = unpacked(one.status, pipeline_pb2.ReaderStatus())
                found.append(ReaderSight(one.name, status.version, one.updated_us))
        return found


def _source(one: Resource) -> Work:
    spec = unpacked(one.spec, extract_pb2.SourceSpec())
    status = unpacked(one.status, extract_pb2.SourceStatus())
    return Work(
        kind="source",
        name=one.name,
        output=spec.table,
        lease=_lease(one),
        own_pace=spec.continuous and spec.WhichOneof("connector") != "push",
        paused=spec.paused,
        state=_state(status.state),
        cause=status.cause,
        worker=status.worker,
        activity=status.activity,
        epoch=status.epoch,
        looked_at=status.observed_generation == one.generation,
        commit_us=status.commit_time.ToMicroseconds() if status.HasField("commit_time") else None,
        next_attempt_us=status.next_attempt_time.ToMicroseconds() if status.HasField("next_attempt_time") else None,
        told_us=one.updated_us,
    )


def _transform(one: Resource) -> Work:
    spec = unpacked(one.spec, transform_pb2.TransformSpec())
    status = unpacked(one.status, transform_pb2.TransformStatus())
    inputs = tuple(sorted({*(read.table for read in status.inputs), spec.driving_table} - {""}))
    safe = status.incrementality.append_safe
    return Work(
        kind="transform",
        name=one.name,
        output=spec.output,
        lease=_lease(one),
        own_pace=True,
        paused=spec.paused,
        inputs=inputs,
        driving=(spec.driving_table,) if safe and spec.driving_table else inputs,
        state=_state(status.state),
        cause=status.cause,
        worker=status.worker,
        epoch=status.epoch,
        looked_at=status.observed_generation == one.generation,
        delay_us=spec.max_delay.ToMicroseconds() if spec.HasField("max_delay") else _DELAY_US,
        commit_us=status.commit_time.ToMicroseconds() if status.HasField("commit_time") else None,
        next_attempt_us=status.next_attempt_time.ToMicroseconds() if status.HasField("next_attempt_time") else None,
        told_us=one.updated_us,
    )


def _lease(one: Resource) -> str:
    """`sources/default/orders`: as extract and transform name their leases."""
    return f"{one.collection}/{one.namespace}/{one.name.split('/', 3)[3]}"


def _state(state: run_pb2.WorkState.ValueType) -> str:
    name = run_pb2.WorkState.Name(state).removeprefix("WORK_STATE_")
    return "" if name == "UNSPECIFIED" else name
