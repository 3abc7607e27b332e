"""Transform as a process: the only place that names concrete adapters."""

from __future__ import annotations

import os
import secrets
import shutil
import socket

from millrace.client.channel import Connection
from millrace.client.resources import Resources
from millrace.engine.files import StorageFiles
from millrace.engine.functions import AGGREGATES, VOLATILE
from millrace.engine.pinned import Limits
from millrace.engine.run import Engine
from millrace.server.bootstrap import run
from millrace.server.identity import on_behalf_of
from millrace.server.runs import Requests, Runs
from millrace.server.runtime import Composition, Runtime, ServiceSpec
from millrace.transform.v1 import transform_pb2_grpc
from millrace.types.v1 import run_pb2
from svc_transform.adapters.engine import DuckdbRecipes
from svc_transform.adapters.storage.outputs import StorageOutputs
from svc_transform.adapters.storage.recipes import StoredRecipes, StoredReports
from svc_transform.adapters.storage.runs import StoredLeases, StoredRuns
from svc_transform.adapters.storage.tables import StorageTables
from svc_transform.config import Settings
from svc_transform.domain.incrementality import Vocabulary
from svc_transform.domain.run import Runner
from svc_transform.domain.work import Manager, Worker
from svc_transform.servicers.transforms import TransformServicer


async def compose(settings: Settings, runtime: Runtime) -> Composition:
    worker_name = f"transform@{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
    shutil.rmtree(settings.spool_dir, ignore_errors=True)
    spill, rows = settings.spool_dir / "spill", settings.spool_dir / "rows"
    for folder in (spill, rows):
        folder.mkdir(parents=True)
    storage = Connection(runtime.channel("storage"))
    engine = Engine(Limits(threads=settings.threads, memory_mb=settings.memory_mb), str(spill))
    files = StorageFiles(
        storage,
        data_root=settings.data_root,
        spool=rows,
        spool_limit_bytes=settings.stream_mb << 20,
        endpoints=settings.store_endpoints,
    )
    tables, reports = StorageTables(storage), StoredReports(storage, worker_name)
    runner = Runner(tables, DuckdbRecipes(engine, files), StorageOutputs(storage), Vocabulary(AGGREGATES, VOLATILE))
    requests = Requests(storage, run_pb2.RUN_KIND_TRANSFORM)
    leases = StoredLeases(storage, worker_name, ttl_s=settings.lease_ttl_ms / 1000)
    worker = Worker(
        runner, tables, leases, reports, StoredRuns(storage, requests, worker_name), runtime.telemetry, on_behalf_of
    )
    manager = Manager(StoredRecipes(storage), worker)

    async def close_engine() -> None:
        engine.close()

    servicer = TransformServicer(Resources(storage), runner, Runs(storage))
    return Composition(
        servicers=[(transform_pb2_grpc.add_TransformServiceServicer_to_server, servicer)],
        background={"transforms": manager.run, "run requests": requests.watch},
        on_drain=[manager.stop],
        on_stop=[close_engine, files.close],
        counters=lambda: {**reports.counters(), **files.counters()},
        leases=leases.held,
        leases_lost=lambda: leases.lost,
    )


if __name__ == "__main__":
    run(ServiceSpec(name="transform", settings=Settings.from_env, compose=compose))
