"""AnalysisService: one class for the stub, a module per RPC."""

from __future__ import annotations

from concurrent.futures import Executor

from millrace.analysis.v1 import analysis_pb2_grpc
from svc_analysis.domain.answers import Queries
from svc_analysis.domain.forecasting import Forecasts
from svc_analysis.domain.regression import Regressions
from svc_analysis.domain.subscriptions import Subscriptions
from svc_analysis.servicers.query import QueryRpcs
from svc_analysis.servicers.statistics import StatisticsRpcs
from svc_analysis.servicers.subscribe import SubscribeRpcs


class AnalysisServicer(QueryRpcs, SubscribeRpcs, StatisticsRpcs, analysis_pb2_grpc.AnalysisServiceServicer):
    """All of the service's RPCs."""

    def __init__(
        self,
        queries: Queries,
        subscriptions: Subscriptions,
        regressions: Regressions,
        forecasts: Forecasts,
        pool: Executor,
    ) -> None:
        QueryRpcs.__init__(self, queries, pool)
        SubscribeRpcs.__init__(self, subscriptions, pool)
        StatisticsRpcs.__init__(self, regressions, forecasts, pool)
