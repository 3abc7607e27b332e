"""Sources, transforms and named readers as `Work` and `ReaderSight`, from the resources that their services wrote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from millrace.extract.v1 import extract_pb2
from millrace.transform.v1 import transform_pb2
from millrace.types.v1 import pipeline_pb2, run_pb2
from svc_storage.domain.control.resource_names import Selection
from svc_storage.domain.control.resources import Resources
from svc_storage.domain.freshness.works import ReaderSight, Work
from svc_storage.ports import Clock, Packed, Resource

M = TypeVar("M", bound=Message)
_PAGE = 200
_KEPT_US = 24 * 3600 * 1_000_000
_DELAY_US = 200_000
"""What an unset `max_delay` means."""


class ResourceWorks:
    """`Pipelines` over the resource store."""

    def __init__(self, resources: Resources, clock: Clock) -> None:
        self._resources, self._clock = resources, clock

    async def works(self) -> Sequence[Work]:
        sources = [_source(one) for one in await self._all("sources")]
        return [*sources, *(_transform(one) for one in await self._all("transforms"))]

    async def readers(self, table_uid: str) -> Sequence[ReaderSight]:
        oldest_us = self._clock.now_us() - _KEPT_US
        found = []
        for one in await self._all("readers"):
            if one.updated_us < oldest_us or "/readers/transforms/" in one.name:
                continue
            if _message(one.spec, pipeline_pb2.ReaderSpec()).table_uid == table_uid:
                status = _message(one.status, pipeline_pb2.ReaderStatus())
                found.append(ReaderSight(one.name, status.version, one.updated_us))
        return found

    async def _all(self, collection: str) -> Sequence[Resource]:
        found: list[Resource] = []
        while True:
            after = found[-1].name if found else ""
            page, _ = await self._resources.page(Selection(collection), after_name=after, limit=_PAGE)
            found += page
            if len(page) < _PAGE:
                return found


def _source(one: Resource) -> Work:
    spec = _message(one.spec, extract_pb2.SourceSpec())
    status = _message(one.status, extract_pb2.SourceStatus())
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
    spec = _message(one.spec, transform_pb2.TransformSpec())
    status = _message(one.status, transform_pb2.TransformStatus())
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


def _message(packed: Packed | None, into: M) -> M:
    """What is missing, of another type or damaged says nothing."""
    if packed is not None and packed.type_url.rpartition("/")[2] == into.DESCRIPTOR.full_name:
        try:
            into.ParseFromString(packed.value)
        except DecodeError:
            into.Clear()
    return into
