"""Tables as storage describes them."""

from __future__ import annotations

from millrace.client.channel import Connection, call
from millrace.storage.v1 import storage_pb2, storage_pb2_grpc
from millrace.wire.schema import schema_from_proto
from svc_extract.ports import TableInfo


class StorageTables:
    """`as_caller`: a connection that carries the rights of whoever asked; `as_extract`: extract's own."""

    def __init__(self, as_caller: Connection, as_extract: Connection) -> None:
        self._as_caller, self._as_extract = as_caller, as_extract

    async def table(self, name: str, *, as_caller: bool) -> TableInfo:
        connection = self._as_caller if as_caller else self._as_extract
        stub = storage_pb2_grpc.StorageServiceStub(connection.channel)
        request = storage_pb2.GetTableRequest(name=name)
        answer = await call(connection, stub.GetTable, request, resource=name, answer=storage_pb2.GetTableResponse)
        table = answer.table
        return TableInfo(table.name, table.uid, schema_from_proto(table.schema), table.event_time_column)
