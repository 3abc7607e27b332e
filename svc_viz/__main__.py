"""viz as a process: the only place that names concrete adapters. One event loop serves gRPC and the page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from millrace.client.channel import Connection
from millrace.server import names
from millrace.server.bootstrap import run
from millrace.server.runtime import Composition, Runtime, ServiceSpec
from millrace.viz.v1 import viz_pb2_grpc
from svc_viz.adapters.analysis.answers import AnalysisAnswers
from svc_viz.adapters.page.rendering import BokehRenderer
from svc_viz.adapters.page.server import PageServer
from svc_viz.adapters.page.visitors import Everybody
from svc_viz.adapters.signals import Delays, ObservedAnswers
from svc_viz.adapters.storage.dashboards import StoredDashboards
from svc_viz.adapters.storage.observer import StorageObserver
from svc_viz.config import Settings
from svc_viz.domain.board import NoticeBoard
from svc_viz.domain.hub import Hub
from svc_viz.servicers.viz import VizServicer


async def compose(settings: Settings, runtime: Runtime) -> Composition:
    storage, analysis = Connection(runtime.channel("storage")), Connection(runtime.channel("analysis"))
    token = settings.user_token()
    board = NoticeBoard()
    delays = Delays(runtime.telemetry, lambda: datetime.now(UTC))

    def hub_of(token: Callable[[], str] | None) -> Hub:
        return Hub(
            ObservedAnswers(AnalysisAnswers(replace(analysis, token=token) if token else analysis), delays),
            lambda: datetime.now(UTC),
            min_interval_ms=settings.min_interval_ms,
            suspects=lambda: "its health check gets no answer" if "analysis" in runtime.peers.lost() else "",
        )

    hub = hub_of((lambda: token) if token else None)
    by_ingress = settings.sign_in == "ingress"
    page = PageServer(
        board,
        hub,
        home=runtime.settings.home,
        host=settings.page_host,
        port=settings.page_port,
        hosts=settings.page_hosts,
        reuse_port=runtime.settings.so_reuseport,
        people=Everybody(board, hub_of, runtime.authenticator, settings.token_cookie) if by_ingress else None,
        painted=delays.painted,
    )
    runtime.telemetry.gauge(names.VIZ_SESSIONS, "{session}", "Open pages.", lambda: [(page.sessions, {})])
    observer = StorageObserver(storage)
    servicer = VizServicer(StoredDashboards(storage), board, AnalysisAnswers(analysis).query, BokehRenderer())
    return Composition(
        servicers=[(viz_pb2_grpc.add_VizServiceServicer_to_server, servicer)],
        background={"observer": lambda: observer.run(board), "suspicion": hub.suspect},
        on_start=[page.start],
        on_stop=[hub.close, page.stop],
        counters=lambda: {"questions_followed": float(hub.streams), "page_sessions": float(page.sessions)},
    )


if __name__ == "__main__":
    run(ServiceSpec(name="viz", settings=Settings.from_env, compose=compose))
