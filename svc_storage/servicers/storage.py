"""StorageService, whole: its parts are one module each."""

from __future__ import annotations

from millrace.storage.v1 import storage_pb2_grpc as grpc_pb
from svc_storage.domain.opened import Opened
from svc_storage.domain.tables import Tables
from svc_storage.ports import Clock
from svc_storage.servicers.append import AppendRpcs
from svc_storage.servicers.tables import TableRpcs


class StorageServicer(TableRpcs, AppendRpcs, grpc_pb.StorageServiceServicer):
    def __init__(self, *, tables: Tables, opened: Opened, clock: Clock) -> None:
        TableRpcs.__init__(self, tables, opened)
        AppendRpcs.__init__(self, opened, clock)
