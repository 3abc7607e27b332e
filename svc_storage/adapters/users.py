"""Who uses a table, from the resources of the services that own them: for deletion and for retention."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence

from google.protobuf import any_pb2
from google.protobuf.message import Message

from millrace.errors import ResourceExists
from millrace.extract.v1 import extract_pb2
from millrace.transform.v1 import transform_pb2
from millrace.types.v1 import pipeline_pb2, run_pb2
from svc_storage.adapters.stored import READER_KEPT_US, every, unpacked
from svc_storage.domain.control.resources import Resources, ResourceWish
from svc_storage.ports import Clock, Derived, Packed, RequestMark, Resource, Version


class ResourceUsers:
    """`Dependents`, `ReaderMarks` and `Lineage` over the resource store."""

    def __init__(self, resources: Resources, clock: Clock) -> None:
        self._resources, self._clock = resources, clock

    async def of(self, table: str) -> Sequence[str]:
        users = []
        async for source in every(self._resources, "sources"):
            if source.spec and unpacked(source.spec, extract_pb2.SourceSpec()).table == table:
                users.append(source.name)
        async for transform in every(self._resources, "transforms"):
            if table in _tables_of(transform):
                users.append(transform.name)
        return users

    async def slowest(self, table_uid: str) -> Version | None:
        return min((version for _, version in await self.of_table(table_uid)), default=None)

    async def of_table(self, table_uid: str) -> Sequence[tuple[str, Version]]:
        found: list[tuple[str, Version]] = []
        oldest_us = self._clock.now_us() - READER_KEPT_US
        async for reader in every(self._resources, "readers"):
            if reader.spec is None or reader.status is None or reader.updated_us < oldest_us:
                continue
            if unpacked(reader.spec, pipeline_pb2.ReaderSpec()).table_uid == table_uid:
                found.append((reader.name, unpacked(reader.status, pipeline_pb2.ReaderStatus()).version))
        return found

    async def derived(self, table: str) -> Sequence[Derived]:
        found = []
        async for transform in every(self._resources, "transforms"):
            output = _output_of(transform)
            if output and output != table and table in _tables_of(transform):
                found.append(Derived(transform.name, output))
        return found

    async def ask_refresh(self, transform: str, run_id: str, principal: str) -> str:
        name = f"namespaces/{transform.split('/')[1]}/runs/{run_id}"
        kind = run_pb2.RUN_KIND_TRANSFORM
        spec = run_pb2.RunSpec(kind=kind, subject=transform, full_refresh=True, requested_by=principal)
        status = run_pb2.Run(kind=kind, subject=transform, state=run_pb2.RUN_STATE_PENDING, requested_by=principal)
        status.create_time.FromMicroseconds(self._clock.now_us())
        wish = ResourceWish(name=name, spec=_packed(spec), status=_packed(status), owner=principal)
        digest = hashlib.sha256(wish.spec.value).hexdigest()
        with contextlib.suppress(ResourceExists):
            await self._resources.put(wish, RequestMark(f"refresh/{run_id}"[:128], "storage", digest))
        return name


def _output_of(transform: Resource) -> str:
    return unpacked(transform.spec, transform_pb2.TransformSpec()).output if transform.spec else ""


def _packed(message: Message) -> Packed:
    found = any_pb2.Any()
    found.Pack(message)
    return Packed(found.type_url, found.value)


def _tables_of(transform: Resource) -> set[str]:
    tables: set[str] = set()
    if transform.spec:
        spec = unpacked(transform.spec, transform_pb2.TransformSpec())
        tables |= {spec.output, spec.driving_table}
    if transform.status:
        tables |= {read.table for read in unpacked(transform.status, transform_pb2.TransformStatus()).inputs}
    return tables
