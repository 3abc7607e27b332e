"""Behind an ingress that signs people in, without a browser: each sees what they may read, and asks as themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse

from millrace.errors import NotAllowed
from millrace.laptop.issuer import sign
from millrace.server.authentication import Authenticator
from millrace.server.identity import Principals
from millrace.server.keys import FileKeys
from millrace.server.tokens import LOCAL_ISSUER, Grants, Issuer, Tokens
from svc_viz.adapters.memory.answers import MemoryAnswers
from svc_viz.adapters.page.server import PageServer
from svc_viz.adapters.page.visitors import Everybody
from svc_viz.domain.board import NoticeBoard
from svc_viz.domain.hub import Hub
from svc_viz.ports import Answer, Question, World
from tests.browser.flights import departures
from tests.browser.stage import DEAD, START, TABLE, dead_letters, demo_dashboard


class AskedAs(MemoryAnswers):
    """As analysis would: refuses whom `may` does not name. `asked`: the tokens that questions came with."""

    def __init__(self, answers: MemoryAnswers, token: Callable[[], str], house: House) -> None:
        self.__dict__.update(answers.__dict__)
        self._token, self._house = token, house

    async def query(self, question: Question) -> Answer:
        self._house.asked.append(self._token())
        if self._token() not in self._house.may:
            raise NotAllowed(
                "`ana` may not call PlanRead: it needs the role reader for namespaces/default/tables/departures"
            )
        return await super().query(question)


@dataclass(slots=True)
class House:
    home: Path
    page: PageServer
    may: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)

    def token(self, lives_s: int = 600, **rights: str) -> str:
        return sign(self.home, "ana", {scope: [role] for scope, role in rights.items()}, lives_s)

    async def get(self, path: str, cookie: str = "", **headers: str) -> HTTPResponse:
        if cookie:
            headers["Cookie"] = f"millrace_token={cookie}"
        request = HTTPRequest(self.page.url.rstrip("/") + path, headers=headers, follow_redirects=False)
        return await AsyncHTTPClient().fetch(request, raise_error=False)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    answers = MemoryAnswers({TABLE: departures(START, 2, per_day=50), DEAD: dead_letters()}, {TABLE: "sched_dep"})
    dashboard = demo_dashboard()
    board = NoticeBoard(World(dashboards={dashboard.name: dashboard}, unreachable=""))
    keys = FileKeys(tmp_path / "issuer" / "jwks.json")
    authenticator = Authenticator(Principals(None), Tokens(Issuer(LOCAL_ISSUER, keys), Grants(None)))
    hubs: list[Hub] = []

    def hub_of(token: Callable[[], str]) -> Hub:
        hubs.append(Hub(AskedAs(answers, token, made), lambda: datetime.now(UTC)))
        return hubs[-1]

    made = House(tmp_path, None)  # type: ignore[arg-type]
    people = Everybody(board, hub_of, authenticator, "millrace_token")
    made.page = PageServer(board, hubs[0], home=tmp_path, host="127.0.0.1", port=0, people=people)
    await made.page.start()
    yield made
    await made.page.stop()
    for hub in hubs:
        with suppress(Exception):
            await hub.close()


async def test_nobody_comes_in_without_a_token_that_counts(house: House) -> None:
    for path in ("/", "/overview", "/d/flights", "/csv/flights/hist", "/b/ws", "/nowhere"):
        answer = await house.get(path)
        assert (answer.code, b"carries no token" in answer.body) == (401, True), path
    expired = await house.get("/", cookie=house.token(lives_s=-3600, default="reader"))
    assert expired.code == 401
    assert b"expired 60 min ago" in expired.body
    assert (await house.get(f"/?key={house.page.key}")).code == 401, "there is no key behind an ingress"
    assert (await house.get("/health")).code == 200


async def test_cookie_and_header_let_a_reader_in(house: House) -> None:
    token = house.token(default="reader")
    for answer in (
        await house.get("/d/flights", cookie=token),
        await house.get("/d/flights", Authorization=f"Bearer {token}"),
    ):
        assert answer.code == 200
        assert token.encode() not in answer.body


async def test_who_may_not_read_a_namespace_does_not_see_what_is_in_it(house: House) -> None:
    stranger = house.token(other="admin")
    assert (await house.get("/d/flights", cookie=stranger)).code == 404
    overview = await house.get("/overview", cookie=stranger)
    assert overview.code == 200
    assert b"/d/flights" not in overview.body


async def test_questions_are_asked_as_whoever_looks_and_refusals_are_said(house: House) -> None:
    token = house.token(default="reader")
    refused = await house.get("/csv/flights/hist", cookie=token)
    assert refused.code == 403
    assert b"needs the role reader" in refused.body
    house.may.add(token)
    assert (await house.get("/csv/flights/hist", cookie=token)).code == 200
    assert set(house.asked) == {token}
