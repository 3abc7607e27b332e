"""StorageService's unary half: tables and the list of their versions."""

from __future__ import annotations

from typing import Any

from millrace.server.identity import caller
from millrace.storage.v1 import storage_pb2 as pb
from svc_storage.convert import tables as convert
from svc_storage.convert.paging import after_of, fitting, page_size_of, token_after
from svc_storage.convert.requests import request_mark
from svc_storage.domain.definition import namespace
from svc_storage.domain.opened import Opened
from svc_storage.domain.tables import Tables
from svc_storage.domain.versions import newest_first


class TableRpcs:
    def __init__(self, tables: Tables, opened: Opened) -> None:
        self._tables, self._opened = tables, opened

    async def CreateTable(self, request: pb.CreateTableRequest, context: Any) -> pb.CreateTableResponse:
        mark = request_mark(request, caller().principal)
        state = await self._tables.create(request.table.name, convert.definition_from(request.table), mark)
        return pb.CreateTableResponse(table=convert.table_to_proto(state))

    async def GetTable(self, request: pb.GetTableRequest, context: Any) -> pb.GetTableResponse:
        return pb.GetTableResponse(table=convert.table_to_proto(await self._tables.get(request.name)))

    async def ListTables(self, request: pb.ListTablesRequest, context: Any) -> pb.ListTablesResponse:
        within, size = namespace(request.parent), page_size_of(request.page_size)
        after_name = after_of(request.page_token, "tables", within)
        found = await self._tables.list(within, after_name=after_name, limit=size + 1)
        page = fitting(convert.table_to_proto(state) for state in found[:size])
        return pb.ListTablesResponse(
            tables=page,
            next_page_token=token_after(page[-1].name, "tables", within) if len(found) > len(page) else "",
        )

    async def UpdateTable(self, request: pb.UpdateTableRequest, context: Any) -> pb.UpdateTableResponse:
        mark = request_mark(request, caller().principal)
        wish = request.table
        current = await self._tables.get(wish.name)
        changed, named = convert.change_from(wish, current.definition)
        state = await self._tables.update(wish.name, changed, schema=named, etag=wish.etag, request=mark)
        return pb.UpdateTableResponse(table=convert.table_to_proto(state))

    async def DeleteTable(self, request: pb.DeleteTableRequest, context: Any) -> pb.DeleteTableResponse:
        mark = request_mark(request, caller().principal)
        await self._tables.delete(request.name, etag=request.etag, request=mark, ignored_user=request.ignore_dependent)
        return pb.DeleteTableResponse()

    async def ListVersions(self, request: pb.ListVersionsRequest, context: Any) -> pb.ListVersionsResponse:
        view = await self._opened.view(request.table)
        await view.refresh()
        size = page_size_of(request.page_size)
        before = after_of(request.page_token, "versions", view.row.uid)
        events = newest_first(view, before=int(before) if before else view.head + 1, limit=size)
        page = fitting(map(convert.version_to_proto, events))
        last = page[-1].number if page else 0
        return pb.ListVersionsResponse(
            versions=page,
            next_page_token=token_after(str(last), "versions", view.row.uid) if last > view.oldest + 1 else "",
            oldest_version=view.oldest,
        )
