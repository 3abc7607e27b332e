"""Storage as a process: the only place that names concrete adapters (the stores: `stores.py`)."""

from __future__ import annotations

import os
import socket
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from millrace.client.channel import Connection
from millrace.server.admin import HeldLease
from millrace.server.bootstrap import run
from millrace.server.runtime import Composition, Runtime, ServiceSpec
from svc_storage.adapters.clock import SystemClock
from svc_storage.adapters.committer_client import CommitClient
from svc_storage.adapters.observed import ObservedBackend, Signals
from svc_storage.adapters.pandas_guard import run_without_pandas
from svc_storage.adapters.runs import MaintenanceRuns
from svc_storage.adapters.users import ResourceUsers
from svc_storage.adapters.works import ResourceWorks
from svc_storage.config import Settings
from svc_storage.domain.control.leadership import Fleet, Leadership
from svc_storage.domain.control.leases import Leases
from svc_storage.domain.storage import Around, Storage
from svc_storage.domain.upkeep import Policy
from svc_storage.servicers.every import servicers
from svc_storage.stores import STORES, archive_of

SWITCH_S = 0.0005
"""A request crosses several threads: at Python's 5 ms each crossing would wait so long for a worker that packs or encodes."""


async def compose(settings: Settings, runtime: Runtime) -> Composition:
    clock, files = SystemClock(), ThreadPoolExecutor(settings.workers, thread_name_prefix="files")
    store = await STORES[settings.backend](settings, files)
    signals = Signals(runtime.telemetry)
    store = replace(store, backend=ObservedBackend(store.backend, signals))
    leases = Leases(store.control, clock)
    await leases.start()
    address = settings.advertise or runtime.settings.address
    leadership = Leadership(leases, clock, name=uuid.uuid4().hex[:12], address=address)
    route = CommitClient(runtime.settings.token, runtime.telemetry, settings.replica_authority)
    around = Around(
        clock=clock,
        leases=leases,
        fleet=Fleet(leader=leadership, route=route, replica=leadership.name) if store.backend.shared else Fleet(),
        policy=Policy(look_every_s=settings.upkeep_interval_ms / 1000),
        files=files,
        reading=ThreadPoolExecutor(settings.workers, thread_name_prefix="reads"),
        users=ResourceUsers,
        pipelines=ResourceWorks,
        archive=archive_of(settings),
        direct_files=settings.direct_files,
    )
    storage = Storage(store, around)
    signals.watch(storage.opened, clock, runtime.table_labels)
    worker = f"storage@{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    runs = MaintenanceRuns(storage.maintenance, worker)

    async def connect() -> None:
        runs.connect(Connection(runtime.own_channel()))

    return Composition(
        servicers=servicers(storage, runs.ledger, around.fleet.leader),
        on_start=[connect],
        on_drain=[runs.stop],
        background={**storage.background(), "maintenance": runs.work, "committers": leadership.run},
        counters=storage.opened.counters,
        leases=lambda: [HeldLease(name, held.epoch, held.renewed_s) for name, held in leadership.held().items()],
        leases_lost=lambda: leadership.lost,
        on_stop=[store.close, route.close, leadership.close, storage.opened.close],
    )


if __name__ == "__main__":
    sys.setswitchinterval(SWITCH_S)
    run_without_pandas()
    run(ServiceSpec(name="storage", settings=Settings.from_env, compose=compose))
