"""StorageService, whole: its parts are one module each."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass

from millrace.storage.v1 import storage_pb2_grpc as grpc_pb
from svc_storage.domain.lookup import Lookups
from svc_storage.domain.maintenance.work import Maintenance
from svc_storage.domain.maintenance.writers import LiveLeases
from svc_storage.domain.opened import Opened
from svc_storage.domain.reads import Reads
from svc_storage.domain.requests import Answers
from svc_storage.domain.resources import Resources
from svc_storage.domain.tables import Tables
from svc_storage.ports import Clock
from svc_storage.servicers.append import AppendRpcs
from svc_storage.servicers.lookup import LookupRpcs
from svc_storage.servicers.maintenance import Ledger, RunRpcs, WriterRpcs
from svc_storage.servicers.reads import ReadRpcs
from svc_storage.servicers.tables import TableRpcs
from svc_storage.servicers.watch import WatchRpcs


@dataclass(frozen=True, slots=True, kw_only=True)
class MaintenanceParts:
    """What runs and writers need beside the tables."""

    work: Maintenance
    ledger: Ledger
    resources: Resources
    leases: LiveLeases
    answers: Answers


class StorageServicer(
    TableRpcs, AppendRpcs, ReadRpcs, LookupRpcs, WatchRpcs, RunRpcs, WriterRpcs, grpc_pb.StorageServiceServicer
):
    """`pool`: threads for encoding rows."""

    def __init__(
        self,
        *,
        tables: Tables,
        opened: Opened,
        reads: Reads,
        lookups: Lookups,
        maintenance: MaintenanceParts,
        clock: Clock,
        pool: Executor,
    ) -> None:
        TableRpcs.__init__(self, tables, opened)
        AppendRpcs.__init__(self, opened, clock)
        ReadRpcs.__init__(self, reads, clock, pool)
        LookupRpcs.__init__(self, lookups, pool)
        WatchRpcs.__init__(self, opened, clock)
        RunRpcs.__init__(self, maintenance.work, maintenance.ledger, maintenance.resources)
        WriterRpcs.__init__(self, opened, maintenance.leases, maintenance.answers, clock)
