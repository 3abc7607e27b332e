"""The one gate, without a browser: what comes through with which Host, cookie and token."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest, HTTPResponse
from tornado.websocket import websocket_connect

from svc_viz.adapters.page.keys import cookie_value, load_key
from tests.browser.flights import departures
from tests.browser.stage import START, Stage, demo_dashboard, staged


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    rows = departures(START, 2, per_day=50)
    async with staged(rows, rows.slice(0, 0), tmp_path) as made:
        yield made


async def get(stage: Stage, path: str, *, cookie: bool = True, **headers: str) -> HTTPResponse:
    if cookie:
        headers["Cookie"] = f"millrace_{stage.page.port}={cookie_value(stage.page.key)}"
    request = HTTPRequest(stage.page.url.rstrip("/") + path, headers=headers, follow_redirects=False)
    return await AsyncHTTPClient().fetch(request, raise_error=False)


async def test_host_and_cookie(stage: Stage) -> None:
    assert (await get(stage, "/")).code == 200
    for path in (
        "/",
        "/overview",
        "/d/flights",
        "/csv/flights/hist",
        "/b/ws",
        "/b",
        "/files/x/page.js",
        "/static/js/bokeh.min.js",
        "/nowhere",
    ):
        assert (await get(stage, path, cookie=False)).code == 401, path
    assert (await get(stage, "/health", cookie=False)).code == 200
    assert (await get(stage, "/", Host="evil.example")).code == 421
    assert (await get(stage, "/health", cookie=False, Host="evil.example")).code == 421
    assert (await get(stage, "/", cookie=False, Cookie=f"millrace_{stage.page.port}=guess")).code == 401
    assert (await get(stage, "/nowhere")).code == 404


async def test_the_key_becomes_a_cookie_and_leaves_the_address(stage: Stage) -> None:
    answer = await get(stage, f"/?key={stage.page.key}", cookie=False)
    assert answer.code == 200
    assert b"location.replace(location." in answer.body
    assert "HttpOnly" in answer.headers["Set-Cookie"]
    assert "SameSite=Strict" in answer.headers["Set-Cookie"]
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert (await get(stage, "/?key=wrong")).code == 401


async def test_pages_forbid_foreign_and_inline_code(stage: Stage) -> None:
    answer = await get(stage, "/d/flights")
    policy, page = answer.headers["Content-Security-Policy"], answer.body.decode()
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert page.count("<script") == page.count("<script nonce=")
    assert " style=" not in page
    assert " onclick=" not in page
    nonce = policy.split("'nonce-")[1].split("'")[0]
    assert nonce not in (await get(stage, "/d/flights")).body.decode(), "a nonce is used once"


async def test_what_the_browser_sends_is_not_kept_in_the_page(stage: Stage) -> None:
    answer = await get(stage, "/d/flights", **{"X-Secret": "very-secret", "Authorization": "Bearer t0p"})
    assert b"very-secret" not in answer.body
    assert cookie_value(stage.page.key).encode() not in answer.body


async def test_a_session_nobody_signed_gets_no_socket(stage: Stage) -> None:
    url = stage.page.url.replace("http", "ws") + "b/ws"
    cookie = {"Cookie": f"millrace_{stage.page.port}={cookie_value(stage.page.key)}"}
    with pytest.raises(HTTPClientError) as caught:
        await websocket_connect(HTTPRequest(url), subprotocols=["bokeh", "token"])
    assert caught.value.code == 401
    with pytest.raises(HTTPClientError) as caught:
        await websocket_connect(
            HTTPRequest(url, headers={**cookie, "Origin": "http://evil.example"}), subprotocols=["bokeh", "x"]
        )
    assert caught.value.code == 403
    invented = await websocket_connect(
        HTTPRequest(url, headers=cookie), subprotocols=["bokeh", "eyJzZXNzaW9uX2lkIjoieCJ9"]
    )
    assert await asyncio.wait_for(invented.read_message(), 5) is None, "closed"
    invented.close()
    assert (await get(stage, "/b?bokeh-session-id=invented")).code == 403


async def test_the_csv_of_an_element_and_of_none(stage: Stage) -> None:
    answer = await get(stage, "/csv/flights/carriers?origin=EWR")
    assert answer.headers["Content-Type"].startswith("text/csv")
    assert answer.body.splitlines()[0] == b"airline,late,median,n"
    assert (await get(stage, "/csv/flights/none")).code == 404
    assert (await get(stage, "/csv/none/hist")).code == 404


async def test_files_are_small_and_kept(stage: Stage) -> None:
    addresses = stage.page.site.assets.addresses
    total = 0
    for name, address in addresses.items():
        answer = await get(stage, address, **{"Accept-Encoding": "gzip"})
        assert "immutable" in answer.headers["Cache-Control"]
        if name.endswith(".js"):
            total += len(stage.page.site.assets.packed[address])
    assert total <= 400_000


def test_the_key_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    key = load_key(tmp_path)
    assert load_key(tmp_path) == key
    assert (tmp_path / "page.key").stat().st_mode & 0o777 == 0o600


async def test_a_dashboard_of_another_namespace_has_its_own_address(stage: Stage) -> None:
    other = replace(demo_dashboard(), name="namespaces/lab/dashboards/flights")
    await stage.catalog.put(other, request_id="r", on_behalf_of="local")
    await asyncio.sleep(0)
    page = (await get(stage, "/overview")).body.decode()
    assert 'href="/d/flights"' in page
    assert 'href="/d/lab/flights"' in page
    assert 'href="/csv/lab/flights/hist"' in (await get(stage, "/d/lab/flights")).body.decode()
    assert (await get(stage, "/csv/lab/flights/none")).code == 404
