"""StorageService's WatchTable."""

from __future__ import annotations

from typing import Any

from millrace.storage.v1 import storage_pb2 as pb
from svc_storage.convert import watch as convert
from svc_storage.domain.control.resource_names import check_name
from svc_storage.domain.reading.watch import watch
from svc_storage.domain.streams import closing
from svc_storage.ports import Clock, OpenTables


class WatchRpcs:
    def __init__(self, tables: OpenTables, clock: Clock) -> None:
        self._watched, self._clock = tables, clock

    async def WatchTable(self, request: pb.WatchTableRequest, context: Any) -> None:
        wish = convert.wish_from(request)
        if request.reader:
            check_name(request.reader, field="reader")
        view = await self._watched.view(request.table, uid=request.table_uid)
        async with closing(watch(view, wish)) as news:
            async for one in news:
                await context.write(convert.response(one, self._clock.now_us()))
