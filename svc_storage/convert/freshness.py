"""ExplainFreshness between proto and domain."""

from __future__ import annotations

from collections.abc import Callable

from millrace.storage.v1 import freshness_pb2 as pb
from svc_storage.domain.freshness.explain import Explained
from svc_storage.domain.freshness.hops import Cause, Hop


def response(found: Explained, may_see: Callable[[str], bool]) -> pb.ExplainFreshnessResponse:
    """`may_see`: whether the caller may read what is in a namespace."""

    def shown(hop: Hop) -> pb.Hop:
        return hop_to(hop, found.time_us, hidden=not may_see(hop.name.split("/", 2)[1]))

    answer = pb.ExplainFreshnessResponse(hops=map(shown, found.hops), version=found.version)
    answer.time.FromMicroseconds(found.time_us)
    if found.verdict is not None:
        answer.verdict.CopyFrom(shown(found.verdict))
    if found.rows_us is not None:
        answer.commit_time.FromMicroseconds(found.rows_us)
    return answer


def hop_to(hop: Hop, now_us: int, *, hidden: bool = False) -> pb.Hop:
    """A hidden one says how it is, not what it is."""
    cause = pb.HopCause.Value(f"HOP_CAUSE_{hop.cause if hop.cause is not Cause.NONE else 'UNSPECIFIED'}")
    made = pb.Hop(state=pb.HopState.Value(f"HOP_STATE_{hop.state.name}"), cause=cause, distance=hop.distance)
    if hop.since_us is not None:
        made.since.FromMicroseconds(hop.since_us)
        made.age.FromMicroseconds(max(0, now_us - hop.since_us))
    if hidden:
        made.kind = pb.HOP_KIND_HIDDEN
        made.summary = "a hop of a namespace that you may not read"
        made.next_step = "ask whoever owns the pipeline before this table" if made.cause else ""
        return made
    made.kind = pb.HopKind.Value(f"HOP_KIND_{hop.kind}")
    made.name, made.summary, made.next_step, made.replica = hop.name, hop.summary, hop.next_step, hop.replica
    made.evidence.extend(pb.HopEvidence(key=key, value=value) for key, value in hop.evidence.items())
    return made
