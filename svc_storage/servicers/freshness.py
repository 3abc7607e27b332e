"""StorageService's ExplainFreshness."""

from __future__ import annotations

from typing import Any

from millrace.server.identity import Caller, caller
from millrace.storage.v1 import freshness_pb2 as pb
from svc_storage.convert import freshness as convert
from svc_storage.domain.definition import table_name
from svc_storage.domain.freshness.explain import Freshness


class FreshnessRpcs:
    def __init__(self, freshness: Freshness) -> None:
        self._freshness = freshness

    async def ExplainFreshness(self, request: pb.ExplainFreshnessRequest, context: Any) -> pb.ExplainFreshnessResponse:
        who = caller()
        found = await self._freshness.explain(table_name(request.table, at="table"))
        return convert.response(found, lambda namespace: _may_read(who, namespace))


def _may_read(who: Caller, namespace: str) -> bool:
    return who.is_service or who.rights.allow({"reader"}, namespace)
