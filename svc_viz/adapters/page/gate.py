"""One gate for page, websocket, CSV and files: the Host must be ours, and the browser must have shown the key."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from bokeh.server.auth_provider import AuthProvider
from bokeh.server.tornado import BokehTornado
from tornado.httputil import HTTPServerRequest
from tornado.web import RequestHandler

from svc_viz.adapters.page.keys import cookie_value, same
from svc_viz.adapters.page.markup import key_page, sign_in_page
from svc_viz.adapters.page.visitors import Everybody

OPEN_PATHS = frozenset({"/health", "/favicon.ico"})
COOKIE_DAYS = 365


@dataclass(frozen=True, slots=True)
class Doorkeeper:
    """`hosts`: what a Host header may say, with port."""

    key: str
    port: int
    hosts: Collection[str]

    @property
    def cookie(self) -> str:
        """Cookies know no ports, so the name carries it."""
        return f"millrace_{self.port}"

    def knows_host(self, request: HTTPServerRequest) -> bool:
        return request.headers.get("Host", "").lower() in self.hosts

    def knows_browser(self, request: HTTPServerRequest) -> bool:
        morsel = request.cookies.get(self.cookie)
        return morsel is not None and same(morsel.value, cookie_value(self.key))

    def knows_key(self, given: str) -> bool:
        return same(given, self.key)

    def why_not(self, request: HTTPServerRequest) -> str:
        """What is said to whom it does not know, besides how to get in."""
        return ""


@dataclass(frozen=True, slots=True)
class IngressDoor(Doorkeeper):
    """Where an ingress signs people in: its token is looked at with each request, and there is no key."""

    visits: Everybody

    def knows_browser(self, request: HTTPServerRequest) -> bool:
        return self.visits.of(request) is not None

    def knows_key(self, given: str) -> bool:
        return False

    def why_not(self, request: HTTPServerRequest) -> str:
        return self.visits.why_not(request)


def secure(handler: RequestHandler, nonce: str) -> None:
    """Headers of every page: scripts and styles by nonce only, nothing from elsewhere, nothing framed, nothing kept."""
    handler.set_header(
        "Content-Security-Policy",
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src 'self' data:; "
        "font-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    )
    handler.set_header("Referrer-Policy", "no-referrer")
    handler.set_header("X-Content-Type-Options", "nosniff")
    handler.set_header("Cache-Control", "no-store")
    handler.clear_header("Server")


class Refused(RequestHandler):
    """421: the Host is not one of ours (a foreign name that resolves to this machine)."""

    def prepare(self) -> None:
        self.set_status(421, "Misdirected Request")
        secure(self, secrets.token_urlsafe(16))
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish("This page is served under another name. Open it with `millrace open`.\n")


class SignIn(RequestHandler):
    """Without the cookie: how to get in, nothing else. With `?key=` on any page: the cookie, then the page without the key."""

    def initialize(self, door: Doorkeeper) -> None:
        self._door = door

    def check_xsrf_cookie(self) -> None:
        """Nothing here changes anything."""

    def prepare(self) -> None:
        nonce = secrets.token_urlsafe(16)
        secure(self, nonce)
        self.set_header("Content-Type", "text/html; charset=utf-8")
        given = self.get_query_argument("key", "")
        if given and self.request.method == "GET" and self._door.knows_key(given):
            self.set_cookie(
                self._door.cookie,
                cookie_value(self._door.key),
                httponly=True,
                samesite="Strict",
                path="/",
                expires_days=COOKIE_DAYS,
                secure=self.request.protocol == "https",
            )
            self.finish(key_page(nonce))
            return
        self.set_status(401)
        self.finish(sign_in_page(nonce, wrong_key=bool(given), why_not=self._door.why_not(self.request)))


class Gate(BokehTornado):
    """Bokeh's application behind the door."""

    def __init__(self, applications: Any, door: Doorkeeper, **options: Any) -> None:
        self._door = door
        super().__init__(applications, **options)

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> Any:
        if not self._door.knows_host(request):
            return self.get_handler_delegate(request, Refused)
        is_key_link = request.method == "GET" and "key" in request.query_arguments
        if request.path not in OPEN_PATHS and (is_key_link or not self._door.knows_browser(request)):
            return self.get_handler_delegate(request, SignIn, {"door": self._door})
        return super().find_handler(request, **kwargs)


class CookieUser(AuthProvider):
    """Bokeh's own check, behind the gate: a second line only."""

    def __init__(self, door: Doorkeeper, principal: str) -> None:
        self._door, self._principal = door, principal
        super().__init__()

    @property
    def get_user(self) -> Any:
        return lambda handler: self._principal if self._door.knows_browser(handler.request) else None

    @property
    def get_user_async(self) -> Any:
        return None

    @property
    def login_url(self) -> str:
        return "/"

    @property
    def get_login_url(self) -> Any:
        return None

    @property
    def login_handler(self) -> Any:
        return None

    @property
    def logout_url(self) -> Any:
        return None

    @property
    def logout_handler(self) -> Any:
        return None
