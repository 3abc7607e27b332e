"""AnalysisService.FitRegression and ForecastSeries."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from contextlib import aclosing
from typing import Any

import pyarrow as pa

from millrace.analysis.v1 import statistics_pb2
from millrace.server.interceptors.deadline import remaining_s
from millrace.server.lifecycle import heartbeats
from svc_analysis.convert import statistics as convert
from svc_analysis.convert.rows import Travel, travel_from
from svc_analysis.domain.forecasting import Forecasts, Header, Status
from svc_analysis.domain.regression import Regressions


class StatisticsRpcs:
    """`pool`: bounded threads for encoding rows."""

    def __init__(self, regressions: Regressions, forecasts: Forecasts, pool: Executor) -> None:
        self._regressions, self._forecasts, self._forecast_pool = regressions, forecasts, pool

    async def FitRegression(
        self, request: statistics_pb2.FitRegressionRequest, context: Any
    ) -> statistics_pb2.FitRegressionResponse:
        found = await self._regressions.fit(convert.regression_from(request), deadline_s=remaining_s())
        return convert.regression_response(found)

    async def ForecastSeries(self, request: statistics_pb2.ForecastSeriesRequest, context: Any) -> None:
        travel = travel_from(request.encoding)
        events = self._forecasts.events(convert.forecast_from(request), deadline_s=remaining_s())
        async with heartbeats(context, convert.forecast_heartbeat), aclosing(events):
            async for event in events:
                if isinstance(event, Header):
                    await context.write(convert.forecast_header(event))
                elif isinstance(event, Status):
                    await context.write(convert.forecast_status(event))
                elif isinstance(event, pa.RecordBatch):
                    await self._write_rows(travel, event, context)
                else:
                    await context.write(convert.forecast_end(event))

    async def _write_rows(self, travel: Travel, batch: pa.RecordBatch, context: Any) -> None:
        loop, messages = asyncio.get_running_loop(), travel.messages(batch)
        while (message := await loop.run_in_executor(self._forecast_pool, next, messages, None)) is not None:
            await context.write(convert.forecast_rows(message))
