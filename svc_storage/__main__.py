"""Storage as a process: the only place that names concrete adapters."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor

from millrace.server.bootstrap import run
from millrace.server.runtime import Composition, Runtime, ServiceSpec
from millrace.storage.v1 import leases_pb2_grpc, resources_pb2_grpc, storage_pb2_grpc
from svc_storage.adapters.clock import SystemClock
from svc_storage.adapters.delta.store import open_local
from svc_storage.adapters.memory.store import open_memory
from svc_storage.adapters.observed import ObservedBackend, Signals
from svc_storage.adapters.pandas_guard import run_without_pandas
from svc_storage.adapters.users import ResourceUsers
from svc_storage.config import Settings
from svc_storage.domain.catalog import TableRows
from svc_storage.domain.expiry import Expiry
from svc_storage.domain.leases import Leases
from svc_storage.domain.lookup import Lookups
from svc_storage.domain.opened import Opened
from svc_storage.domain.reads import DirectAccess, Reads
from svc_storage.domain.resources import Resources
from svc_storage.domain.tables import Tables
from svc_storage.domain.upkeep import Policy, Upkeep
from svc_storage.ports import Store
from svc_storage.servicers.leases import LeaseServicer
from svc_storage.servicers.resources import ResourceServicer
from svc_storage.servicers.storage import StorageServicer

STORES: Mapping[str, Callable[[Settings, Executor], Awaitable[Store]]] = {
    "local": lambda settings, pool: open_local(settings.data_dir, pool),
    "memory": lambda settings, pool: open_memory(),
}


async def compose(settings: Settings, runtime: Runtime) -> Composition:
    clock = SystemClock()
    pool = ThreadPoolExecutor(settings.workers, thread_name_prefix="files")
    store = await STORES[settings.backend](settings, pool)
    backend, control = ObservedBackend(store.backend, Signals(runtime.telemetry)), store.control
    leases, resources = Leases(control, clock), Resources(control, clock)
    await leases.start()
    catalog, users = TableRows(control, clock), ResourceUsers(resources, clock)
    opened = Opened(catalog, backend, leases, clock)
    tables = Tables(catalog, backend, opened, users, clock)
    reading = ThreadPoolExecutor(settings.workers, thread_name_prefix="reads")  # readers never hold up a commit
    reads = Reads(opened, control, clock, reading, DirectAccess(settings.direct_files, store.id))
    lookups = Lookups(opened, reading)
    storage = StorageServicer(tables=tables, opened=opened, reads=reads, lookups=lookups, clock=clock, pool=reading)
    policy = Policy(look_every_s=settings.upkeep_interval_ms / 1000)
    upkeep = Upkeep(opened, catalog, backend, users, clock, policy)
    return Composition(
        servicers=[
            (storage_pb2_grpc.add_StorageServiceServicer_to_server, storage),
            (resources_pb2_grpc.add_ResourceServiceServicer_to_server, ResourceServicer(resources, clock)),
            (leases_pb2_grpc.add_LeaseServiceServicer_to_server, LeaseServicer(leases)),
        ],
        background={"upkeep": upkeep.run, "expiry": Expiry(resources, clock).run},
        counters=opened.counters,
        on_stop=[store.close, opened.close],
    )


if __name__ == "__main__":
    run_without_pandas()
    run(ServiceSpec(name="storage", settings=Settings.from_env, compose=compose))
