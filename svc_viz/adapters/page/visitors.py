"""Who is looking: on a laptop one person, in a cluster whoever the ingress' token names, each with their own rights."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from tornado.httputil import HTTPServerRequest

from millrace.errors import MillraceError
from millrace.server.authentication import Authenticator
from millrace.server.identity import Caller
from svc_viz.domain.board import BoardView, NoticeBoard
from svc_viz.domain.hub import Hub

KEPT = 200
"""People whose streams are kept apart; those who look at nothing go first."""
_READER = frozenset({"reader"})


@dataclass(frozen=True, slots=True)
class Visit:
    """What one person sees: the part of the world they may read, and answers to questions asked as them."""

    principal: str
    board: NoticeBoard
    hub: Hub


class Visits(Protocol):
    def of(self, request: HTTPServerRequest) -> Visit | None:
        """None: nobody known."""

    def nobody(self) -> Visit:
        """For a session whose request is gone."""


class OnePerson:
    """The laptop: whoever has the page's key is its owner."""

    def __init__(self, board: NoticeBoard, hub: Hub) -> None:
        self._visit = Visit("local", board, hub)

    def of(self, request: HTTPServerRequest) -> Visit | None:
        return self._visit

    def nobody(self) -> Visit:
        return self._visit


@dataclass(slots=True)
class _Person:
    """`token`: the newest that they showed; their streams are opened again with it."""

    caller: Caller
    hub: Hub = field(init=False)


class Everybody:
    """Behind an ingress that signs people in: its token comes in `Authorization`, or in a cookie, since browsers set no headers on
    websockets. `make_hub`: answers asked with the token that its argument gives."""

    def __init__(
        self,
        board: NoticeBoard,
        make_hub: Callable[[Callable[[], str]], Hub],
        authenticator: Authenticator,
        cookie: str,
    ) -> None:
        self._board, self._make_hub, self._authenticator, self._cookie = board, make_hub, authenticator, cookie
        self._people: OrderedDict[str, _Person] = OrderedDict()
        self._nobody = Visit("", NoticeBoard(), make_hub(str))

    def of(self, request: HTTPServerRequest) -> Visit | None:
        try:
            return self._visit(self._authenticator.known_caller(self._shown(request)))
        except MillraceError:
            return None

    def why_not(self, request: HTTPServerRequest) -> str:
        """Why `of` said None, for the person."""
        try:
            self._authenticator.known_caller(self._shown(request))
        except MillraceError as error:
            return error.message
        return ""

    def nobody(self) -> Visit:
        return self._nobody

    def _shown(self, request: HTTPServerRequest) -> str:
        if header := request.headers.get("Authorization", ""):
            return header
        morsel = request.cookies.get(self._cookie)
        return f"Bearer {morsel.value}" if morsel is not None else ""

    def _visit(self, caller: Caller) -> Visit:
        person = self._people.get(caller.principal)
        if person is None:
            person = self._people[caller.principal] = _Person(caller)
            person.hub = self._make_hub(lambda: person.caller.token.reveal())
        person.caller = caller
        self._people.move_to_end(caller.principal)
        self._shed()
        return Visit(caller.principal, BoardView(self._board, lambda name: _may_see(person.caller, name)), person.hub)

    def _shed(self) -> None:
        idle = [who for who, person in self._people.items() if not person.hub.streams]
        for who in idle[: max(0, len(self._people) - KEPT)]:
            del self._people[who]


def _may_see(caller: Caller, name: str) -> bool:
    """`name`: `namespaces/a/tables/t`, or another collection."""
    _, _, rest = name.partition("namespaces/")
    namespace, _, inside = rest.partition("/")
    collection, _, last = inside.partition("/")
    return caller.is_service or caller.rights.allow(_READER, namespace, last if collection == "tables" else "")
