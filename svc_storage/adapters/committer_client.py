"""The way to another replica of storage: CommitterService over gRPC."""

from __future__ import annotations

import grpc

from millrace.client import status
from millrace.errors import (
    CommitConflict,
    FieldInvalid,
    LeaseLost,
    Missing,
    StoreUnavailable,
    TableRecreated,
    WriterFenced,
)
from millrace.server.identity import as_service
from millrace.server.peers import OPTIONS, PeerChannel
from millrace.server.settings import Secret
from millrace.server.telemetry import Telemetry
from millrace.storage.v1 import committer_pb2 as pb
from millrace.storage.v1 import committer_pb2_grpc as grpc_pb
from svc_storage.domain.writing.commit_codec import MAX_BYTES, encode
from svc_storage.ports import Proposal, TableRow, Version

_SAID = (CommitConflict, WriterFenced, LeaseLost, FieldInvalid, Missing, TableRecreated)
"""Answers; everything else leaves open what happened."""
DEADLINE_S = 4.0
"""Less than a lease's ttl: a holder that is stopped is found out while its lease runs out."""


class CommitClient:
    """A `CommitRoute`. One channel per address, kept. `token`: this service's own. `authority`: the name that a sidecar knows all
    replicas by; it sends the call on to the address that it was made to."""

    def __init__(self, token: Secret, telemetry: Telemetry, authority: str = "") -> None:
        self._token, self._telemetry = token, telemetry
        self._options = [*OPTIONS, *([("grpc.default_authority", authority)] if authority else [])]
        self._channels: dict[str, PeerChannel] = {}

    async def send(self, holder: str, table: TableRow, proposal: Proposal) -> Version:
        content = encode(proposal)
        if len(content) > MAX_BYTES:
            raise FieldInvalid("the commit is too large for one message", field="proposal")
        request = pb.CommitRequest(
            request_id=proposal.commit.id, table=table.name, table_uid=table.uid, proposal=content
        )
        stub = grpc_pb.CommitterServiceStub(self._channel(holder))
        try:
            with as_service():
                answer: pb.CommitResponse = await status.raising(stub.Commit(request, timeout=DEADLINE_S))
        except status.CALL_ERRORS as error:
            failure = status.error_of(error)
            if isinstance(failure, _SAID):
                raise failure from error
            raise StoreUnavailable(f"the replica that commits to this table: {failure.message}") from error
        return answer.version

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close(None)

    def _channel(self, holder: str) -> PeerChannel:
        if holder not in self._channels:
            plain = grpc.aio.insecure_channel(holder, options=self._options)
            self._channels[holder] = PeerChannel(plain, self._token, self._telemetry)
        return self._channels[holder]
