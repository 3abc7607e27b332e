"""Storage as a process: the only place that names concrete adapters."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from millrace.client.channel import Connection
from millrace.server.admin import HeldLease
from millrace.server.bootstrap import run
from millrace.server.runtime import Composition, Runtime, ServiceSpec
from millrace.storage.v1 import committer_pb2_grpc, leases_pb2_grpc, resources_pb2_grpc, storage_pb2_grpc
from svc_storage.adapters.archive.folder import FolderArchive
from svc_storage.adapters.clock import SystemClock
from svc_storage.adapters.committer_client import CommitClient
from svc_storage.adapters.delta.store import open_local
from svc_storage.adapters.memory.store import open_memory
from svc_storage.adapters.observed import ObservedBackend, Signals
from svc_storage.adapters.pandas_guard import run_without_pandas
from svc_storage.adapters.runs import MaintenanceRuns
from svc_storage.adapters.users import ResourceUsers
from svc_storage.config import Settings
from svc_storage.domain.catalog import TableRows
from svc_storage.domain.expiry import Expiry
from svc_storage.domain.key_tables import KeyTables
from svc_storage.domain.leadership import Fleet, Leadership
from svc_storage.domain.leases import Leases
from svc_storage.domain.lookup import Lookups
from svc_storage.domain.maintenance.work import Maintenance
from svc_storage.domain.opened import Opened
from svc_storage.domain.reads import DirectAccess, Reads
from svc_storage.domain.requests import Answers
from svc_storage.domain.resources import Resources
from svc_storage.domain.tables import Tables
from svc_storage.domain.transfer.work import Transfers
from svc_storage.domain.upkeep import Policy, Upkeep
from svc_storage.ports import Archive, Store
from svc_storage.servicers.committer import CommitterServicer
from svc_storage.servicers.leases import LeaseServicer
from svc_storage.servicers.resources import ResourceServicer
from svc_storage.servicers.storage import MaintenanceParts, StorageServicer

if TYPE_CHECKING:
    from svc_storage.adapters.s3.credentials import Credentials
    from svc_storage.adapters.s3.objects import Address


def _bucket(settings: Settings, url: str) -> tuple[Address, Credentials]:
    from svc_storage.adapters.s3.credentials import Credentials
    from svc_storage.adapters.s3.objects import Address

    s3 = settings.s3
    return (
        Address.parse(url, endpoint=s3.endpoint, region=s3.region, allow_http=s3.allow_http),
        Credentials(
            s3.access_key,
            s3.secret_key,
            s3.session_token,
            environment={name: value.reveal() for name, value in s3.environment.items()},
        ),
    )


def _archive(settings: Settings) -> Archive | None:
    if settings.archive.startswith("s3://"):
        from svc_storage.adapters.archive.bucket import BucketArchive
        from svc_storage.adapters.s3.objects import Objects

        return BucketArchive(Objects(*_bucket(settings, settings.archive)))
    return FolderArchive(Path(unquote(urlsplit(settings.archive).path))) if settings.archive else None


async def _s3(settings: Settings) -> Store:
    from svc_storage.adapters.s3.store import open_s3

    return await open_s3(
        *_bucket(settings, settings.s3.url),
        cluster=settings.cluster,
        cache_dir=settings.cache_dir,
        cache_bytes=settings.cache_mb << 20,
        at_once=4 * settings.workers,
    )


async def _cassandra(settings: Settings) -> Store:
    from svc_storage.adapters.cassandra.session import Place
    from svc_storage.adapters.cassandra.store import open_cassandra

    found = settings.cassandra
    place = Place(**{one.name: getattr(found, one.name) for one in fields(found)})
    return await open_cassandra(place, cluster=settings.cluster, at_once=4 * settings.workers)


STORES: Mapping[str, Callable[[Settings, Executor], Awaitable[Store]]] = {
    "local": lambda settings, pool: open_local(settings.data_dir, pool),
    "memory": lambda settings, pool: open_memory(),
    "s3": lambda settings, pool: _s3(settings),
    "cassandra": lambda settings, pool: _cassandra(settings),
}


async def compose(settings: Settings, runtime: Runtime) -> Composition:
    clock = SystemClock()
    pool = ThreadPoolExecutor(settings.workers, thread_name_prefix="files")
    store = await STORES[settings.backend](settings, pool)
    backend, control = ObservedBackend(store.backend, Signals(runtime.telemetry)), store.control
    leases, resources = Leases(control, clock), Resources(control, clock)
    await leases.start()
    catalog, users = TableRows(control, clock), ResourceUsers(resources, clock)
    leadership = Leadership(leases, clock, name=uuid.uuid4().hex[:12], address=_address(settings, runtime))
    route = CommitClient(runtime.settings.token, runtime.telemetry)
    fleet = Fleet(leader=leadership, route=route, replica=leadership.name) if backend.shared else Fleet()
    opened = Opened(catalog, backend, leases, clock, fleet, key_tables=store.key_tables)
    tables = Tables(catalog, backend, opened, users, clock)
    reading = ThreadPoolExecutor(settings.workers, thread_name_prefix="reads")  # readers never hold up a commit
    reads = Reads(opened, control, clock, reading, DirectAccess(settings.direct_files, store.id))
    lookups = Lookups(opened, reading)
    policy = Policy(look_every_s=settings.upkeep_interval_ms / 1000)
    transfers = Transfers(opened, catalog, backend, clock, pool, _archive(settings))
    work = Maintenance(opened, catalog, users, users, clock, policy, transfers)
    runs = MaintenanceRuns(work, f"storage@{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}")
    parts = MaintenanceParts(
        work=work, ledger=runs.ledger, resources=resources, leases=leases, answers=Answers(control, clock)
    )
    storage = StorageServicer(
        tables=tables, opened=opened, reads=reads, lookups=lookups, maintenance=parts, clock=clock, pool=reading
    )
    upkeep = Upkeep(opened, catalog, backend, users, clock, policy)

    async def connect() -> None:
        runs.connect(Connection(runtime.own_channel()))

    return Composition(
        servicers=[
            (storage_pb2_grpc.add_StorageServiceServicer_to_server, storage),
            (resources_pb2_grpc.add_ResourceServiceServicer_to_server, ResourceServicer(resources, clock)),
            (leases_pb2_grpc.add_LeaseServiceServicer_to_server, LeaseServicer(leases)),
            (committer_pb2_grpc.add_CommitterServiceServicer_to_server, CommitterServicer(opened, fleet.leader)),
        ],
        on_start=[connect],
        on_drain=[runs.stop],
        background={
            "maintenance": runs.work,
            "key tables": KeyTables(opened).run,
            "upkeep": upkeep.run,
            "expiry": Expiry(resources, clock).run,
            "committers": leadership.run,
        },
        counters=opened.counters,
        leases=lambda: [HeldLease(name, held.epoch, held.renewed_s) for name, held in leadership.held().items()],
        on_stop=[store.close, route.close, leadership.close, opened.close],
    )


def _address(settings: Settings, runtime: Runtime) -> str:
    """Where the other replicas reach this one; empty when nobody can know before it listens."""
    shared = runtime.settings
    return settings.advertise or (f"{shared.host}:{shared.port}" if shared.port else "")


if __name__ == "__main__":
    run_without_pandas()
    run(ServiceSpec(name="storage", settings=Settings.from_env, compose=compose))
