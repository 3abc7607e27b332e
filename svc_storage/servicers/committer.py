"""CommitterService: for the other replicas of storage."""

from __future__ import annotations

from typing import Any

from millrace.errors import LeaseLost, NotAllowed
from millrace.server.identity import caller
from millrace.storage.v1 import committer_pb2 as pb
from millrace.storage.v1 import committer_pb2_grpc as grpc_pb
from svc_storage.convert.committer import proposal_from
from svc_storage.domain.control.leadership import Leader
from svc_storage.domain.opened import Opened

REPLICA = "storage"
"""The principal under which replicas call each other."""


class CommitterServicer(grpc_pb.CommitterServiceServicer):
    def __init__(self, opened: Opened, leader: Leader) -> None:
        self._opened, self._leader = opened, leader

    async def Commit(self, request: pb.CommitRequest, context: Any) -> pb.CommitResponse:
        who = caller()
        if not who.is_service or who.principal != REPLICA:
            raise NotAllowed(f"`{who.principal}` may not do this: only replicas of storage may", hint="use AppendRows")
        proposal = proposal_from(request)
        table = await self._opened.table(request.table, uid=request.table_uid)
        if await self._leader.holder(request.table_uid):
            raise LeaseLost("another replica commits to this table", hint="look who holds the lease")
        return pb.CommitResponse(version=await table.committer.take(proposal))
