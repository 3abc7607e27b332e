"""Which hop holds a table's data up: what storage says of the way, and what the services say of themselves, asked at once.

Storage knows sources, tables, transforms, leases and readers; it calls nobody. Whether a service serves, and how its live questions
do, only the service says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from millrace import errors
from millrace.admin.v1 import admin_pb2
from millrace.cli.session import AREAS, Session, plain_words
from millrace.client.channel import call
from millrace.client.status import CALL_ERRORS, error_of
from millrace.storage.v1 import freshness_pb2 as pb

ANSWER_S = 1.6
_READY = (admin_pb2.SERVING_STATE_SERVING, admin_pb2.SERVING_STATE_DEGRADED)
_NEEDED_BY = {"extract": pb.HOP_KIND_SOURCE, "transform": pb.HOP_KIND_TRANSFORM}
"""A service that only matters where such a hop is on the way. Storage always matters; analysis and viz are behind every table."""
_OF_THE_STORE = (pb.HOP_CAUSE_STORE_AWAY, pb.HOP_CAUSE_COMMIT_CONFLICTS)


@dataclass(frozen=True, slots=True)
class Replica:
    """One process of a service. `said` None: it does not answer, `why` says how. `silent`: it answers, and not to this caller."""

    area: str
    address: str
    said: admin_pb2.GetStatusResponse | None
    why: str = ""
    silent: bool = False

    @property
    def ready(self) -> bool:
        return self.silent or (self.said is not None and self.said.state in _READY)

    def __str__(self) -> str:
        if self.silent:
            return f"{self.address}: answers"
        if self.said is None:
            return f"{self.address}: {self.why}"
        state = admin_pb2.ServingState.Name(self.said.state).removeprefix("SERVING_STATE_").lower()
        return f"{self.address}: {state}{f' ({self.said.state_reason})' if self.said.state_reason else ''}"


@dataclass(frozen=True, slots=True)
class Explanation:
    """`verdict` None: nothing is known to hold data up. `told` None: storage did not answer."""

    verdict: pb.Hop | None
    hops: Sequence[pb.Hop]
    told: pb.ExplainFreshnessResponse | None = None
    replicas: Sequence[Replica] = field(default=())


async def explain(session: Session, table: str) -> Explanation:
    """Raises TableNotFound, NotAllowed and their like; a service that is away is part of the answer."""
    places = [(area, address) for area in AREAS for address in session.addresses(area)]
    asked = asyncio.gather(*(_replica(session, *place) for place in places))
    try:
        told = await _told(session, table)
    except BaseException:
        asked.cancel()
        raise
    return explained(told, await asked)


def explained(told: pb.ExplainFreshnessResponse | None, replicas: Sequence[Replica]) -> Explanation:
    """Puts the services' hops among storage's, and says which one is to blame."""
    hops = list(told.hops) if told is not None else []
    kinds = {hop.kind for hop in hops}
    services = [_service(area, of) for area, of in _by_area(replicas).items()]
    needed = [hop for hop in services if told is None or _NEEDED_BY.get(hop.name, hop.kind) in kinds | {hop.kind}]
    verdict = told.verdict if told is not None and told.HasField("verdict") else None
    return Explanation(_blamed(verdict, needed, told), [*hops, *needed], told, replicas)


def _blamed(
    verdict: pb.Hop | None, services: Iterable[pb.Hop], told: pb.ExplainFreshnessResponse | None
) -> pb.Hop | None:
    away = {hop.name: hop for hop in services if hop.cause == pb.HOP_CAUSE_SERVICE_NOT_READY}
    if told is None or (verdict is not None and verdict.cause in _OF_THE_STORE):
        return away.get("storage", verdict)
    # A service that is away says nothing of its work: what its hops say is old.
    for area in ("storage", "extract", "transform"):
        if area in away and (verdict is None or verdict.kind == _NEEDED_BY.get(area) or _after(verdict, area)):
            return away[area]
    return verdict or next(iter(away.values()), None) or next((hop for hop in services if hop.cause), None)


def _after(verdict: pb.Hop, area: str) -> bool:
    """Whether what is said of the verdict may come of the service: nothing stands still before it."""
    return area == "storage" or verdict.state != pb.HOP_STATE_STALLED


def _by_area(replicas: Sequence[Replica]) -> Mapping[str, Sequence[Replica]]:
    return {area: of for area in AREAS if (of := [one for one in replicas if one.area == area])}


def _service(area: str, replicas: Sequence[Replica]) -> pb.Hop:
    ready = [one for one in replicas if one.ready]
    seen = [pb.HopEvidence(key=f"replica_{number}", value=str(one)) for number, one in enumerate(replicas, start=1)]
    for one in replicas:
        seen += _last_error(one)
    hop = pb.Hop(kind=pb.HOP_KIND_SERVICE, name=area, state=pb.HOP_STATE_OK, summary=f"{area} serves", evidence=seen)
    if not ready:
        hop.state, hop.cause = pb.HOP_STATE_STALLED, pb.HOP_CAUSE_SERVICE_NOT_READY
        hop.summary = f"{area} does not serve: {str(replicas[0]).partition(': ')[2]}"
        hop.replica = replicas[0].address
        hop.next_step = (
            f"`millrace status` and the log of {area} say why; on Kubernetes: `kubectl describe pod -l app={area}`"
        )
    elif len(ready) < len(replicas):
        hop.summary = f"{area} serves with {len(ready)} of {len(replicas)} replicas"
    return hop


def _last_error(replica: Replica) -> Sequence[pb.HopEvidence]:
    if replica.said is None or not replica.said.errors:
        return ()
    last = replica.said.errors[0]
    when = last.time.ToDatetime().strftime("%H:%M:%SZ")
    value = f"{when} {last.method.rpartition('/')[2]}: {last.reason or last.code}: {last.message}"
    return (pb.HopEvidence(key="last_error", value=value),)


# -- asking -----------------------------------------------------------------------------------------------------------
async def _told(session: Session, table: str) -> pb.ExplainFreshnessResponse | None:
    """None when storage is not there."""
    connection = session.connection("storage")
    try:
        return await call(
            connection, session.tables.ExplainFreshness, pb.ExplainFreshnessRequest(table=table), resource=table,
            deadline_s=session.settings.timeout_s or ANSWER_S, answer=pb.ExplainFreshnessResponse, tries=2,
        )  # fmt: skip
    except (*CALL_ERRORS, errors.MillraceError) as error:
        failure = error_of(error)
        if isinstance(failure, (errors.FixRequest, errors.Missing, errors.NotAllowed, errors.TokenInvalid)):
            raise failure from error
        return None


async def _replica(session: Session, area: str, address: str) -> Replica:
    try:
        connection = session.connection(area, address)
        said: Any = await call(
            connection, session.admin(connection).GetStatus, admin_pb2.GetStatusRequest(),
            deadline_s=session.settings.timeout_s or ANSWER_S, answer=admin_pb2.GetStatusResponse, tries=2,
        )  # fmt: skip
    except (*CALL_ERRORS, errors.MillraceError) as error:
        failure = error_of(error)
        return Replica(area, address, None, plain_words(failure), silent=isinstance(failure, errors.NotAllowed))
    return Replica(area, address, said)
