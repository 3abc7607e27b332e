"""VizService: dashboards as data, charts as files."""

from __future__ import annotations

import hashlib
from typing import Any

from millrace.errors import FieldInvalid
from millrace.server.identity import caller, caller_request_id
from millrace.viz.v1 import viz_pb2, viz_pb2_grpc
from svc_viz.convert import dashboards as convert
from svc_viz.domain.board import NoticeBoard
from svc_viz.domain.exports import Ask
from svc_viz.domain.rendering import render
from svc_viz.domain.validation import validate
from svc_viz.ports import Dashboards, Renderer

CHUNK_BYTES = 256 * 1024
FORMATS = {
    viz_pb2.RENDER_FORMAT_HTML: "html",
    viz_pb2.RENDER_FORMAT_JSON: "json",
    viz_pb2.RENDER_FORMAT_CSV: "csv",
}
MAX_PAGE_SIZE = 1000


class VizServicer(viz_pb2_grpc.VizServiceServicer):
    """`ask`: one answer from analysis, as the caller."""

    def __init__(self, dashboards: Dashboards, board: NoticeBoard, ask: Ask, renderer: Renderer) -> None:
        self._dashboards, self._board, self._ask, self._renderer = dashboards, board, ask, renderer

    async def PutDashboard(self, request: viz_pb2.PutDashboardRequest, context: Any) -> viz_pb2.PutDashboardResponse:
        dashboard = convert.dashboard_from(request.dashboard)
        validate(dashboard, self._board.world.tables)
        stored = await self._dashboards.put(
            dashboard, request_id=caller_request_id(request.request_id), on_behalf_of=caller().principal
        )
        return viz_pb2.PutDashboardResponse(dashboard=convert.dashboard_to(stored))

    async def GetDashboard(self, request: viz_pb2.GetDashboardRequest, context: Any) -> viz_pb2.GetDashboardResponse:
        name = convert.dashboard_name(request.name, "name")
        return viz_pb2.GetDashboardResponse(dashboard=convert.dashboard_to(await self._dashboards.get(name)))

    async def ListDashboards(
        self, request: viz_pb2.ListDashboardsRequest, context: Any
    ) -> viz_pb2.ListDashboardsResponse:
        namespace = convert.namespace_of(request.parent)
        if not 0 <= request.page_size <= MAX_PAGE_SIZE:
            raise FieldInvalid(f"page_size is not between 0 and {MAX_PAGE_SIZE}", field="page_size")
        page = await self._dashboards.list(namespace, page_size=request.page_size or 50, page_token=request.page_token)
        return viz_pb2.ListDashboardsResponse(
            dashboards=[convert.dashboard_to(one) for one in page.dashboards], next_page_token=page.next_page_token
        )

    async def DeleteDashboard(
        self, request: viz_pb2.DeleteDashboardRequest, context: Any
    ) -> viz_pb2.DeleteDashboardResponse:
        name = convert.dashboard_name(request.name, "name")
        await self._dashboards.delete(name, request_id=caller_request_id(request.request_id), etag=request.etag)
        return viz_pb2.DeleteDashboardResponse()

    async def RenderChart(self, request: viz_pb2.RenderChartRequest, context: Any) -> None:
        name = convert.dashboard_name(request.dashboard, "dashboard")
        if request.format not in FORMATS:
            raise FieldInvalid("format is HTML, JSON or CSV", field="format")
        rendered = await render(
            await self._dashboards.get(name),
            request.element,
            FORMATS[request.format],
            theme=request.theme,
            state=request.state,
            tables=self._board.world.tables,
            ask=self._ask,
            renderer=self._renderer,
        )
        size = len(rendered.data)
        await context.write(
            viz_pb2.RenderChartResponse(
                header=viz_pb2.RenderHeader(
                    content_type=rendered.content_type,
                    filename=rendered.filename,
                    versions=rendered.versions,
                    size=size,
                )
            )
        )
        for offset in range(0, size, CHUNK_BYTES):
            chunk = viz_pb2.RenderChunk(data=rendered.data[offset : offset + CHUNK_BYTES], offset=offset)
            await context.write(viz_pb2.RenderChartResponse(chunk=chunk))
        digest = hashlib.sha256(rendered.data).hexdigest()
        await context.write(viz_pb2.RenderChartResponse(end=viz_pb2.RenderEnd(size=size, sha256=digest)))
