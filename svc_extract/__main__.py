"""Extract as a process: the only place that names concrete adapters."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable, Mapping

from millrace.client.channel import Connection
from millrace.extract.v1 import extract_pb2_grpc
from millrace.server.admin import HeldLease
from millrace.server.bootstrap import run
from millrace.server.identity import on_behalf_of
from millrace.server.runtime import Composition, Runtime, ServiceSpec
from svc_extract.adapters.clock import SystemClock
from svc_extract.adapters.connectors.files.connector import FilesConnector
from svc_extract.adapters.connectors.files.listing import Roots
from svc_extract.adapters.connectors.push import PushConnector
from svc_extract.adapters.connectors.replay.connector import ReplayConnector
from svc_extract.adapters.connectors.sql.connector import SqlConnector
from svc_extract.adapters.secrets import ReferencedSecrets
from svc_extract.adapters.signals import ObservedCatalog
from svc_extract.adapters.storage.leases import StorageLeases
from svc_extract.adapters.storage.push import StorageGate
from svc_extract.adapters.storage.sink import StorageSink
from svc_extract.adapters.storage.tables import StorageTables
from svc_extract.config import Settings
from svc_extract.domain.ingest import Ingest
from svc_extract.domain.runs import Runs
from svc_extract.domain.session import Tools
from svc_extract.domain.sources import Sources
from svc_extract.domain.supervisor import Supervisor
from svc_extract.ports import Clock, Connector, Secrets
from svc_extract.servicers.extract import ExtractServicer

CONNECTORS: Mapping[str, Callable[[Roots, Clock, Secrets], Connector]] = {
    "files": lambda roots, clock, secrets: FilesConnector(roots, clock),
    "sql": lambda roots, clock, secrets: SqlConnector(secrets, clock),
    "replay": lambda roots, clock, secrets: ReplayConnector(roots, clock),
    "push": lambda roots, clock, secrets: PushConnector(),
}


async def compose(settings: Settings, runtime: Runtime) -> Composition:
    clock = SystemClock()
    roots = Roots(settings.file_roots, settings.home)
    secrets = ReferencedSecrets(settings.environment, settings.secret_names, settings.secret_roots)
    connectors = {name: make(roots, clock, secrets) for name, make in CONNECTORS.items()}
    channel = runtime.channel("storage")
    as_caller, as_extract = Connection(channel), Connection(channel, token=runtime.settings.token.reveal)
    catalog = ObservedCatalog(as_extract, runtime.telemetry, runtime.table_labels)
    tables = StorageTables(as_caller, as_extract)
    worker = f"extract@{socket.gethostname()}:{os.getpid()}"
    leases = StorageLeases(as_extract, f"{worker}:{uuid.uuid4().hex[:8]}", settings.lease_ttl_ms)
    tools = Tools(connectors, StorageSink(as_extract), tables, catalog, clock, worker, on_behalf_of)
    supervisor = Supervisor(tools, leases)
    sources = Sources(catalog, tables, connectors)
    servicer = ExtractServicer(sources, Runs(catalog, sources, clock), Ingest(sources, StorageGate(as_caller)), clock)
    return Composition(
        servicers=[(extract_pb2_grpc.add_ExtractServiceServicer_to_server, servicer)],
        background={"sources": supervisor.run},
        on_drain=[supervisor.drain],
        counters=lambda: {"sources_working": float(supervisor.working)},
        leases_lost=lambda: leases.lost,
        leases=lambda: [HeldLease(*one) for one in leases.held()],
    )


if __name__ == "__main__":
    run(ServiceSpec(name="extract", settings=Settings.from_env, compose=compose))
