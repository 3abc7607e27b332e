"""Another replica's commit, from proto to domain."""

from __future__ import annotations

from millrace.errors import FieldInvalid
from millrace.storage.v1 import committer_pb2 as pb
from svc_storage.domain.writing.commit_codec import decode
from svc_storage.ports import Proposal


def proposal_from(request: pb.CommitRequest) -> Proposal:
    """Raises FieldInvalid."""
    try:
        proposal = decode(request.proposal)
    except ValueError as wrong:
        raise FieldInvalid("not a commit of this release", field="proposal") from wrong
    if proposal.commit.id != request.request_id:
        raise FieldInvalid("another commit's id", field="request_id")
    return proposal
