"""Sources: looked at, stored, listed."""

from __future__ import annotations

from typing import Any

from millrace.extract.v1 import extract_pb2 as pb
from millrace.server.identity import caller
from svc_extract.convert import sources as convert
from svc_extract.domain.sources import Sources


class SourceRpcs:
    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    async def ListConnectors(self, request: pb.ListConnectorsRequest, context: Any) -> pb.ListConnectorsResponse:
        return pb.ListConnectorsResponse(connectors=map(convert.connector_to, self._sources.connectors()))

    async def CheckSource(self, request: pb.CheckSourceRequest, context: Any) -> pb.CheckSourceResponse:
        return convert.report_to(await self._sources.examine(convert.spec_from(request.spec)))

    async def PutSource(self, request: pb.PutSourceRequest, context: Any) -> pb.PutSourceResponse:
        stored = await self._sources.put(
            convert.source_from(request.source), request_id=request.request_id, owner=caller().principal
        )
        return pb.PutSourceResponse(source=convert.source_to(stored))

    async def GetSource(self, request: pb.GetSourceRequest, context: Any) -> pb.GetSourceResponse:
        return pb.GetSourceResponse(source=convert.source_to(await self._sources.get(request.name)))

    async def ListSources(self, request: pb.ListSourcesRequest, context: Any) -> pb.ListSourcesResponse:
        page, token = await self._sources.page(
            request.parent, page_size=request.page_size, page_token=request.page_token
        )
        return pb.ListSourcesResponse(sources=map(convert.source_to, page), next_page_token=token)

    async def DeleteSource(self, request: pb.DeleteSourceRequest, context: Any) -> pb.DeleteSourceResponse:
        await self._sources.delete(request.name, etag=request.etag, request_id=request.request_id)
        return pb.DeleteSourceResponse()
