"""StorageService, whole: its parts are one module each."""

from __future__ import annotations

from millrace.storage.v1 import storage_pb2_grpc as grpc_pb
from svc_storage.domain.storage import Storage
from svc_storage.servicers.append import AppendRpcs
from svc_storage.servicers.freshness import FreshnessRpcs
from svc_storage.servicers.lookup import LookupRpcs
from svc_storage.servicers.maintenance import Ledger, RunRpcs, WriterRpcs
from svc_storage.servicers.reads import ReadRpcs
from svc_storage.servicers.tables import TableRpcs
from svc_storage.servicers.watch import WatchRpcs


class StorageServicer(
    TableRpcs,
    AppendRpcs,
    ReadRpcs,
    LookupRpcs,
    WatchRpcs,
    RunRpcs,
    WriterRpcs,
    FreshnessRpcs,
    grpc_pb.StorageServiceServicer,
):
    """`ledger`: where maintenance runs are asked for."""

    def __init__(self, storage: Storage, ledger: Ledger) -> None:
        TableRpcs.__init__(self, storage.tables, storage.opened)
        AppendRpcs.__init__(self, storage.opened, storage.clock)
        ReadRpcs.__init__(self, storage.reads, storage.clock, storage.reading)
        LookupRpcs.__init__(self, storage.lookups, storage.reading)
        WatchRpcs.__init__(self, storage.opened, storage.clock)
        RunRpcs.__init__(self, storage.maintenance, ledger, storage.resources)
        WriterRpcs.__init__(self, storage.opened, storage.leases, storage.answers, storage.clock)
        FreshnessRpcs.__init__(self, storage.freshness)
