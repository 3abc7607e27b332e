"""StorageService's LookupRows."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from typing import Any

from millrace.storage.v1 import lookup_pb2 as pb
from svc_storage.convert import lookup as convert
from svc_storage.domain.reading.lookup import Lookups

ASIDE_BYTES = 64 * 1024
"""Larger answers are encoded on a worker thread."""


class LookupRpcs:
    """`pool`: threads for encoding."""

    def __init__(self, lookups: Lookups, pool: Executor) -> None:
        self._lookups, self._encoding = lookups, pool

    async def LookupRows(self, request: pb.LookupRowsRequest, context: Any) -> pb.LookupRowsResponse:
        target = await self._lookups.pin(convert.wish_from(request))
        found = await self._lookups.find(target, convert.keys_from(request, target.keys))
        if found.rows.nbytes < ASIDE_BYTES:
            return convert.response(found, request)
        return await asyncio.get_running_loop().run_in_executor(self._encoding, convert.response, found, request)
