"""How everything is, asked of all services at once: one that does not answer is a finding, not a failure."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Any

from millrace import errors
from millrace.admin.v1 import admin_pb2
from millrace.cli.kinds import KINDS, short_name
from millrace.cli.session import AREAS, Session, plain_words
from millrace.client.channel import call
from millrace.client.status import CALL_ERRORS, error_of
from millrace.laptop.ports import instance
from millrace.types.v1 import run_pb2

_ANSWER_S = 3.0
_OWNERS = {"sources": "extract", "transforms": "transform", "tables": "storage"}


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it should be. `subject`: "storage", "source orders"."""

    subject: str
    why: str


@dataclass(slots=True)
class Service:
    """One of the five, or one replica of it. `said` is None when it does not answer. `number`: which replica, from 1."""

    area: str
    address: str
    said: admin_pb2.GetStatusResponse | None
    why: str = ""
    number: int = 1

    @property
    def name(self) -> str:
        """As its log is called: "storage", "storage-2"."""
        return instance(self.area, self.number)

    @property
    def state(self) -> str:
        """In a word: serving, starting, degraded, draining, down."""
        if self.said is None:
            return "down"
        return admin_pb2.ServingState.Name(self.said.state).removeprefix("SERVING_STATE_").lower()


@dataclass(slots=True)
class Health:
    """What `status` shows."""

    services: list[Service]
    sources: Sequence[Any] = ()
    transforms: Sequence[Any] = ()
    tables: Sequence[Any] = ()
    problems: list[Problem] = field(default_factory=list)


async def look(session: Session) -> Health:
    """Never raises for a service that is down; its part is empty then."""
    replicas = [
        (area, number, address) for area in AREAS for number, address in enumerate(session.addresses(area), start=1)
    ]
    services = list(await asyncio.gather(*(_service(session, *replica) for replica in replicas)))
    health = Health(services)
    parts = tuple(_OWNERS)
    down = set(AREAS) - {service.area for service in services if service.said is not None}
    answers = await asyncio.gather(*(_listed(KINDS[part].listed(session)) for part in parts))
    for part, (things, why) in zip(parts, answers, strict=True):
        setattr(health, part, things)
        if why and _OWNERS[part] not in down:
            health.problems.append(Problem(part, f"cannot be listed: {why}"))
    health.problems = [*_of_services(services), *_of_work(health), *health.problems]
    return health


async def _service(session: Session, area: str, number: int, address: str) -> Service:
    try:
        connection = session.connection(area, address)
        said = await call(
            connection, session.admin(connection).GetStatus, admin_pb2.GetStatusRequest(),
            deadline_s=session.settings.timeout_s or _ANSWER_S, answer=admin_pb2.GetStatusResponse, tries=3,
        )  # fmt: skip
    except (*CALL_ERRORS, errors.MillraceError) as error:
        given_up = session.endpoints.down.get(instance(area, number), "")
        why = f"stays down: {given_up}" if given_up else plain_words(error_of(error))
        return Service(area, address, None, why, number)
    return Service(area, address, said, said.state_reason, number)


async def _listed(listing: Awaitable[Sequence[Any]]) -> tuple[Sequence[Any], str]:
    try:
        async with asyncio.timeout(_ANSWER_S):
            return await listing, ""
    except TimeoutError:
        return (), f"no answer within {_ANSWER_S:g} s"
    except (*CALL_ERRORS, errors.MillraceError) as error:
        return (), plain_words(error_of(error))


def _of_services(services: Sequence[Service]) -> list[Problem]:
    found = []
    for service in services:
        if service.said is None:
            found.append(Problem(service.name, f"{service.why} ({service.address})"))
        elif service.state != "serving":
            lost = ", ".join(peer.service for peer in service.said.peers if not peer.reachable)
            why = service.why or (f"out of reach: {lost}" if lost else "")
            found.append(Problem(service.name, f"{service.state}{': ' if why else ''}{why}"))
    return found


def _of_work(health: Health) -> list[Problem]:
    found = []
    for word, things in (("source", health.sources), ("transform", health.transforms)):
        for thing in things:
            if thing.status.state in (run_pb2.WORK_STATE_PAUSED, run_pb2.WORK_STATE_BACKING_OFF):
                state = run_pb2.WorkState.Name(thing.status.state).removeprefix("WORK_STATE_").lower()
                why = thing.status.cause or ("by its spec" if thing.spec.paused else "")
                state = state.replace("_", " ")
                found.append(Problem(f"{word} {short_name(thing.name)}", f"{state}{': ' if why else ''}{why}"))
    return found
