"""Input tables as storage has them, and the output tables that transforms make."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import aclosing

import pyarrow as pa

from millrace.client.channel import Connection, call
from millrace.client.resources import Resources, new_request_id
from millrace.client.watch import watch_table
from millrace.server.identity import as_service, on_behalf_of
from millrace.storage.v1 import storage_pb2, storage_pb2_grpc
from millrace.types.v1 import pipeline_pb2
from millrace.wire.schema import schema_from_proto, schema_to_proto
from svc_transform.ports import Landed, TableFacts

READER_MOVES_S = 5.0
"""A reader's position is told at most this often; retention only needs to know it roughly."""


class StorageTables:
    """The Tables port."""

    def __init__(self, storage: Connection) -> None:
        self._connection = storage
        self._stub = storage_pb2_grpc.StorageServiceStub(storage.channel)

    async def get(self, name: str) -> TableFacts:
        return _facts(await self._table(name))

    async def _table(self, name: str) -> storage_pb2.Table:
        request = storage_pb2.GetTableRequest(name=name)
        answer = await call(
            self._connection, self._stub.GetTable, request, resource=name, answer=storage_pb2.GetTableResponse
        )
        return answer.table

    async def create(
        self, name: str, schema: pa.Schema, *, event_time_column: str = "", description: str = ""
    ) -> TableFacts:
        table = storage_pb2.Table(
            name=name, schema=schema_to_proto(schema), event_time_column=event_time_column, description=description
        )
        return await self._create(table)

    async def _create(self, table: storage_pb2.Table) -> TableFacts:
        request = storage_pb2.CreateTableRequest(request_id=new_request_id(), table=table)
        answer = await call(
            self._connection,
            self._stub.CreateTable,
            request,
            resource=table.name,
            answer=storage_pb2.CreateTableResponse,
        )
        return _facts(answer.table)

    async def grow(self, table: TableFacts, columns: pa.Schema) -> TableFacts:
        wanted = await self._table(table.name)
        wanted.schema.CopyFrom(schema_to_proto(columns))
        request = storage_pb2.UpdateTableRequest(request_id=new_request_id(), table=wanted)
        answer = await call(
            self._connection,
            self._stub.UpdateTable,
            request,
            resource=table.name,
            answer=storage_pb2.UpdateTableResponse,
        )
        return _facts(answer.table)

    async def empty(self, table: TableFacts, *, owner: str) -> TableFacts:
        """Between the two steps the table is missing; a worker that dies there makes it anew from the recipe's columns."""
        before = await self._table(table.name)
        request = storage_pb2.DeleteTableRequest(request_id=new_request_id(), name=table.name, ignore_dependent=owner)
        with on_behalf_of(""):  # making its own output anew is the transform's doing: its owner need not be an admin
            await call(
                self._connection,
                self._stub.DeleteTable,
                request,
                resource=table.name,
                answer=storage_pb2.DeleteTableResponse,
            )
        definition = storage_pb2.Table(
            name=before.name,
            schema=before.schema,
            event_time_column=before.event_time_column,
            primary_key=before.primary_key,
            rules=before.rules,
            description=before.description,
        )
        return await self._create(definition)

    async def changes(self, table: TableFacts, *, after_version: int, reader: str) -> AsyncIterator[Landed]:
        request = storage_pb2.WatchTableRequest(
            table=table.name, table_uid=table.uid, data_changes_only=True, coalesce=True
        )
        if after_version >= 0:
            request.after_version = after_version
        async with aclosing(watch_table(self._connection, request)) as events:
            async for event in events:
                if isinstance(event, storage_pb2.TableVersion):
                    yield Landed(event.number, event.trace_context)
                elif isinstance(event, storage_pb2.TableDeleted):
                    return


class Readers:
    """Tells storage how far a transform has read, so that retention keeps what it still needs."""

    def __init__(self, storage: Connection) -> None:
        self._resources = Resources(storage)
        self._told: dict[tuple[str, str], float] = {}

    async def moved(self, lease: str, table: str, uid: str, version: int) -> None:
        """At most every 5 s per reader and table. `lease`: `transforms/<namespace>/<name>`."""
        key = (lease, f"{table}@{uid}")
        if time.monotonic() - self._told.get(key, float("-inf")) < READER_MOVES_S:
            return
        _, namespace, transform = lease.split("/", 2)
        name = f"namespaces/{namespace}/readers/transforms/{transform}/{table.split('/')[1]}.{table.rsplit('/', 1)[1]}"
        status = pipeline_pb2.ReaderStatus(version=version)
        status.move_time.FromNanoseconds(time.time_ns())
        with as_service():
            if key not in self._told:
                spec = pipeline_pb2.ReaderSpec(table=table, table_uid=uid)
                await self._resources.put(name, spec, status=status, overwrite=True)
            await self._resources.update_status(name, status)
        self._told[key] = time.monotonic()


def _facts(table: storage_pb2.Table) -> TableFacts:
    return TableFacts(
        table.name, table.uid, table.version, schema_from_proto(table.schema), table.event_time_column, table.owner
    )
