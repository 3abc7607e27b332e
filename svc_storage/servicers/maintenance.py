"""StorageService's runs over a table, and its writers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from typing import Any

from millrace.errors import RunNotFound
from millrace.server.identity import caller, caller_request_id
from millrace.server.runs import Runs, run_of
from millrace.storage.v1 import maintenance_pb2 as pb
from millrace.types.v1 import run_pb2
from svc_storage.convert import maintenance as convert
from svc_storage.convert.paging import after_of, fitting, page_size_of, token_after
from svc_storage.convert.requests import request_mark
from svc_storage.convert.resources import resource_to
from svc_storage.domain.control.requests import Answers
from svc_storage.domain.control.resource_names import Selection
from svc_storage.domain.control.resources import Resources
from svc_storage.domain.definition import namespace, table_name
from svc_storage.domain.maintenance import writers
from svc_storage.domain.maintenance.work import Maintenance
from svc_storage.domain.opened import Opened
from svc_storage.ports import Clock

Ledger = Callable[[], Runs]
"""Raises Starting in the first moments of a process."""


class RunRpcs:
    """`ledger`: where runs are asked for and observed; whoever holds the table's lease works on them."""

    def __init__(self, maintenance: Maintenance, ledger: Ledger, resources: Resources) -> None:
        self._maintenance, self._ledger, self._resources = maintenance, ledger, resources

    async def CompactTable(self, request: pb.CompactTableRequest, context: Any) -> None:
        await self._observe(request, context, pb.CompactTableResponse)

    async def ExpireVersions(self, request: pb.ExpireVersionsRequest, context: Any) -> None:
        await self._observe(request, context, pb.ExpireVersionsResponse)

    async def RestoreTable(self, request: pb.RestoreTableRequest, context: Any) -> None:
        await self._observe(request, context, pb.RestoreTableResponse)

    async def EraseRows(self, request: pb.EraseRowsRequest, context: Any) -> None:
        await self._observe(request, context, pb.EraseRowsResponse)

    async def CheckTable(self, request: pb.CheckTableRequest, context: Any) -> None:
        await self._observe(request, context, pb.CheckTableResponse)

    async def ExportTable(self, request: pb.ExportTableRequest, context: Any) -> None:
        await self._observe(request, context, pb.ExportTableResponse)

    async def ImportTable(self, request: pb.ImportTableRequest, context: Any) -> None:
        await self._observe(request, context, pb.ImportTableResponse)

    async def _observe(self, request: convert.Request, context: Any, response: Callable[..., Any]) -> None:
        spec = convert.run_spec(request, caller().principal)
        ledger = self._ledger()
        if not await ledger.knows(
            spec, request.request_id
        ):  # attaching asks nothing of the table, which may be another by now
            await self._maintenance.check(request.table, convert.task_from(request))
        run = await ledger.start(spec, request.request_id)
        async with aclosing(ledger.events(run.name, request.after_sequence)) as events:  # type: ignore[type-var]
            async for event in events:
                await context.write(response(event=event))

    async def GetRun(self, request: pb.GetRunRequest, context: Any) -> pb.GetRunResponse:
        return pb.GetRunResponse(run=await self._own(request.name))

    async def ListRuns(self, request: pb.ListRunsRequest, context: Any) -> pb.ListRunsResponse:
        within, size = namespace(request.parent), page_size_of(request.page_size)
        if request.table:
            table_name(request.table, at="table")
        after_name = after_of(request.page_token, "runs", within, request.table)
        stored, _ = await self._resources.page(Selection("runs", within), after_name=after_name, limit=size)
        found = [run_of(resource_to(one)) for one in stored]
        chosen = [run for run in found if run.kind in convert.KINDS and request.table in ("", run.subject)]
        page = fitting(chosen)
        last = page[-1].name if len(page) < len(chosen) else stored[-1].name if len(stored) == size else ""
        token = token_after(last, "runs", within, request.table) if last else ""
        return pb.ListRunsResponse(runs=page, next_page_token=token)

    async def CancelRun(self, request: pb.CancelRunRequest, context: Any) -> pb.CancelRunResponse:
        await self._own(request.name)
        run = await self._ledger().cancel(request.name, caller_request_id(request.request_id))
        return pb.CancelRunResponse(run=run)

    async def _own(self, name: str) -> run_pb2.Run:
        run = await self._ledger().get(name)
        if run.kind not in convert.KINDS:
            raise RunNotFound(f"`{name}` is no run of storage", field="name", hint="ask the service that runs it")
        return run


class WriterRpcs:
    def __init__(self, opened: Opened, leases: writers.LiveLeases, answers: Answers, clock: Clock) -> None:
        self._opened, self._leases, self._answers, self._clock = opened, leases, answers, clock

    async def ListWriters(self, request: pb.ListWritersRequest, context: Any) -> pb.ListWritersResponse:
        table = await self._opened.table(table_name(request.table, at="table"))
        size = page_size_of(request.page_size)
        after = after_of(request.page_token, "writers", table.row.uid)
        found = writers.page(table, after=after, limit=size + 1)
        page = fitting(map(convert.writer_to, found[:size]))
        more = len(found) > len(page)
        return pb.ListWritersResponse(
            writers=page,
            next_page_token=token_after(page[-1].writer_id, "writers", table.row.uid) if more else "",
            version=table.head,
        )

    async def DeleteWriter(self, request: pb.DeleteWriterRequest, context: Any) -> pb.DeleteWriterResponse:
        mark = request_mark(request, caller().principal)
        if (before := await self._answers.before(mark)) is not None:
            return pb.DeleteWriterResponse(epoch=int(before))
        table = await self._opened.table(table_name(request.table, at="table"))
        epoch = await writers.delete(table, request.writer_id, self._leases, self._clock)
        await self._answers.keep(mark, str(epoch).encode())
        return pb.DeleteWriterResponse(epoch=epoch)
