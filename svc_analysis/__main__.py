"""Analysis as a process: the only place that names concrete adapters."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

from millrace.analysis.v1 import analysis_pb2_grpc
from millrace.client.channel import Connection
from millrace.engine.files import StorageFiles
from millrace.engine.run import Engine
from millrace.server.bootstrap import run
from millrace.server.runtime import Composition, Hook, Runtime, ServiceSpec
from svc_analysis.adapters import workdir
from svc_analysis.adapters.duckdb import DuckDbEngine, DuckDbLanguage
from svc_analysis.adapters.remembered import RememberedTables
from svc_analysis.adapters.statsmodels import Statsmodels
from svc_analysis.adapters.storage import StorageTables
from svc_analysis.config import Settings
from svc_analysis.domain.answers import Queries
from svc_analysis.domain.forecasting import Forecasts
from svc_analysis.domain.live import LiveQuestions
from svc_analysis.domain.question import Planner
from svc_analysis.domain.regression import Regressions
from svc_analysis.domain.subscriptions import Subscriptions
from svc_analysis.domain.watching import Watches
from svc_analysis.ports import Spans, Tables
from svc_analysis.servicers.analysis import AnalysisServicer


def assemble(settings: Settings, tables: Tables, spill: str, spans: Spans) -> Composition:
    """The service over whatever tables there are."""
    duckdb = Engine(settings.limits(), spill)
    engine, language = DuckDbEngine(duckdb), DuckDbLanguage()
    planner = Planner(tables, engine, language)
    live = LiveQuestions(planner, engine, Watches(tables), spans)
    statistics, pool = Statsmodels(), ThreadPoolExecutor(2, thread_name_prefix="rows")
    queries = Queries(planner, engine)
    servicer = AnalysisServicer(
        queries,
        Subscriptions(planner, live),
        Regressions(planner, engine, statistics),
        Forecasts(planner, engine, statistics, settings.series_limit),
        pool,
    )

    async def stop() -> None:
        await asyncio.to_thread(duckdb.close)
        pool.shutdown(wait=False, cancel_futures=True)

    return Composition(
        servicers=[(analysis_pb2_grpc.add_AnalysisServiceServicer_to_server, servicer)],
        on_start=[queries.warm],
        on_stop=[stop],
        counters=live.counters,
    )


async def compose(settings: Settings, runtime: Runtime) -> Composition:
    connection = Connection(runtime.channel("storage"))
    mine = workdir.claim(settings.work_dir)
    spool, limit = mine / "rows", settings.stream_mb << 20
    files = StorageFiles(
        connection,
        data_root=settings.data_dir,
        spool=spool,
        spool_limit_bytes=limit,
        endpoints=settings.store_endpoints,
    )
    made = assemble(
        settings, RememberedTables(StorageTables(files, connection)), str(mine / "spill"), runtime.telemetry
    )
    stop: list[Hook] = [partial(asyncio.to_thread, workdir.release, mine), files.close, *made.on_stop]
    return replace(made, on_stop=stop, counters=lambda: {**made.counters(), **files.counters()})


if __name__ == "__main__":
    run(ServiceSpec(name="analysis", settings=Settings.from_env, compose=compose))
