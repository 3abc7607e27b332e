"""What the page server answers beside Bokeh's own paths: pages, CSV, health, files."""

from __future__ import annotations

import gzip
import hashlib
import secrets
import time
from collections.abc import Mapping
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import bokeh
from bokeh.server.views.auth_request_handler import AuthRequestHandler
from bokeh.util.token import generate_jwt_token, generate_session_id
from tornado.httputil import HTTPServerRequest
from tornado.web import HTTPError, RequestHandler

from millrace.errors import MillraceError, NotAllowed
from svc_viz.adapters.page.gate import secure
from svc_viz.adapters.page.markup import Shell, dashboard_page, error_page, overview_page
from svc_viz.adapters.page.sessions import ranges_of, zones_of
from svc_viz.adapters.page.visitors import Visit, Visits
from svc_viz.domain.board import NoticeBoard
from svc_viz.domain.exports import export
from svc_viz.domain.state import PageState, decode
from svc_viz.ports import Dashboard

OWN_FILES = ("theme.js", "csp.js", "draw.js", "cards.js", "hover.js", "page.js", "page.css")
TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}
TOKEN_S = 3600
FIRST_LOOK_S = 8.0
"""How long a page that is asked for while we start waits for the first look at storage."""


class Assets:
    """Files by address: the address carries a hash of the bytes, so a browser may keep them for ever. Compressed once."""

    @cached_property
    def files(self) -> Mapping[str, bytes]:
        own = resources.files("svc_viz.adapters.page") / "static"
        found = {name: (own / name).read_bytes() for name in OWN_FILES}
        found["bokeh.min.js"] = (Path(bokeh.__file__).parent / "server" / "static" / "js" / "bokeh.min.js").read_bytes()
        return found

    @cached_property
    def addresses(self) -> Mapping[str, str]:
        return {name: f"/files/{hashlib.sha256(data).hexdigest()[:16]}/{name}" for name, data in self.files.items()}

    @cached_property
    def packed(self) -> Mapping[str, bytes]:
        return {self.addresses[name]: gzip.compress(data, 9, mtime=0) for name, data in self.files.items()}


class Site:
    """What handlers share. `instance` differs at each start: a page that sees another one reloads itself."""

    def __init__(self, visits: Visits) -> None:
        self.visits = visits
        self.assets = Assets()
        self.instance = secrets.token_urlsafe(9)
        self.waiting: dict[str, tuple[Dashboard | None, PageState, Visit]] = {}

    def visit(self, request: HTTPServerRequest) -> Visit:
        """Whose request it is: the gate let it in, so somebody's."""
        return self.visits.of(request) or self.visits.nobody()

    def nav(self, board: NoticeBoard) -> list[tuple[str, str]]:
        found = [("/overview", "Overview")]
        shown = sorted(board.world.dashboards.values(), key=lambda one: one.name)[:6]
        return found + [(f"/d/{one.path}", one.slug.replace("_", " ").replace("-", " ").capitalize()) for one in shown]

    def shell(self, board: NoticeBoard, here: str, theme: str = "") -> Shell:
        return Shell(secrets.token_urlsafe(16), self.assets.addresses, self.nav(board), here, self.instance, theme)


class Page(AuthRequestHandler):
    """A page of any kind; each makes its own Bokeh session, signed."""

    def initialize(self, site: Site) -> None:
        self._site = site
        self._visit = site.visits.nobody()

    async def prepare(self) -> None:
        self._visit = self._site.visit(self.request)
        await self._visit.board.known(FIRST_LOOK_S)

    async def render_session(self, dashboard: Dashboard | None, state: PageState) -> dict[str, Any]:
        """A new session's token and roots for the page's scripts."""
        app: Any = self.application
        session_id = generate_session_id(secret_key=app.secret_key, signed=True)
        token = generate_jwt_token(
            session_id,
            secret_key=app.secret_key,
            signed=True,
            expiration=TOKEN_S,
            extra_payload={
                "headers": {},
                "cookies": {},
                "arguments": {"slug": [f"{dashboard.namespace}/{dashboard.slug}" if dashboard else ""]},
            },
        )
        self._site.waiting[session_id] = (dashboard, state, self._visit)
        try:
            session = await app.applications["/b"].create_session_if_needed(session_id, self.request, token)
        finally:
            self._site.waiting.pop(session_id, None)
        roots = [root.ref["id"] for root in session.document.roots]
        if not roots:
            raise HTTPError(500)
        figures = {root.name: root.ref["id"] for root in session.document.roots if root.name}
        return {"token": token, "roots": roots, "figures": figures}

    def answer(self, shell: Shell, html: str, status: int = 200) -> None:
        secure(self, shell.nonce)
        self.set_status(status)
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.finish(html)

    def lost(self, title: str, text: str, status: int = 404) -> None:
        shell = self._site.shell(self._visit.board, "")
        self.answer(shell, error_page(shell, title, text, ("/overview", "Back to the overview")), status)

    def write_error(self, status_code: int, **_: Any) -> None:
        self.lost("This page could not be built", "The log of viz says why; the other pages go on.", status_code)

    async def show(self, dashboard: Dashboard, here: str) -> None:
        state, notes = decode(self.request.query, dashboard.spec)
        shell = self._site.shell(self._visit.board, here, state.theme)
        config = {**await self.render_session(dashboard, state), "path": f"/d/{dashboard.path}"}
        spec = dashboard.spec
        choices = {"range": ranges_of(dashboard), "zone": zones_of(dashboard, state)}
        chosen = {"range": state.range or spec.time.range or "all", "zone": state.zone or spec.time.zone or "UTC"}
        if chosen["range"] not in dict(choices["range"]):
            choices["range"].append((chosen["range"], chosen["range"].removeprefix("last ")))
        self.answer(shell, dashboard_page(shell, dashboard, config, choices, chosen, notes))

    async def show_overview(self) -> None:
        shell = self._site.shell(self._visit.board, "/overview")
        self.answer(shell, overview_page(shell, await self.render_session(None, PageState())))


class Home(Page):
    """The only dashboard, else the overview."""

    async def get(self) -> None:
        shown = list(self._visit.board.world.dashboards.values())
        if len(shown) == 1:
            await self.show(shown[0], f"/d/{shown[0].path}")
        else:
            await self.show_overview()


class Overview(Page):
    async def get(self) -> None:
        await self.show_overview()


class DashboardPage(Page):
    async def get(self, slug: str) -> None:
        dashboard = self._visit.board.dashboard(slug)
        if dashboard is not None:
            await self.show(dashboard, f"/d/{dashboard.path}")
        elif why := self._visit.board.world.unreachable:
            self.lost(
                "Not there yet",
                f"Dashboards are kept by storage, and it does not answer: {why}. This page looks again when you reload it.",
                503,
            )
        else:
            self.lost(
                "No such dashboard", f"There is no dashboard called “{slug[:80]}”. It may have been renamed or deleted."
            )


class NoPage(Page):
    async def prepare(self) -> None:
        self._visit = self._site.visit(self.request)
        self.lost("No such page", "Nothing is served at this address.")


class Csv(AuthRequestHandler):
    """An element's rows in the state of the page's address: all rows, in the page's zone."""

    def initialize(self, site: Site) -> None:
        self._site = site

    async def get(self, slug: str, element: str) -> None:
        secure(self, "none")
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        visit = self._site.visit(self.request)
        dashboard = visit.board.dashboard(slug)
        if dashboard is None or element not in dashboard.spec.elements:
            self.set_status(404)
            self.finish("There is no such chart.\n")
            return
        state, _ = decode(self.request.query, dashboard.spec)
        try:
            data = await export(dashboard, element, state, visit.board.world.tables, visit.hub.query)
        except MillraceError as error:
            self.set_status(403 if isinstance(error, NotAllowed) else 503)
            self.finish(f"{error.message} [{error.reason}]\n")
            return
        self.set_header("Content-Type", "text/csv; charset=utf-8; header=present")
        self.set_header("Content-Disposition", f'attachment; filename="{dashboard.slug}-{element}.csv"')
        self.finish(data)


class Health(RequestHandler):
    """Open: says that the process answers, and which one it is."""

    def initialize(self, site: Site) -> None:
        self._site = site

    def get(self) -> None:
        self.set_header("Cache-Control", "no-store")
        self.finish({"instance": self._site.instance, "time_ms": round(time.time() * 1000)})


class File(RequestHandler):
    """One of our files, compressed in advance; its address changes with its bytes."""

    def initialize(self, site: Site) -> None:
        self._site = site

    def get(self, path: str) -> None:
        address = f"/files/{path}"
        packed = self._site.assets.packed.get(address)
        if packed is None:
            self.send_error(404)
            return
        self.set_header("Content-Type", TYPES[Path(address).suffix])
        self.set_header("Cache-Control", "private, max-age=31536000, immutable")
        self.set_header("X-Content-Type-Options", "nosniff")
        if "gzip" in self.request.headers.get("Accept-Encoding", ""):
            self.set_header("Content-Encoding", "gzip")
            self.finish(packed)
        else:
            self.finish(gzip.decompress(packed))


def patterns(site: Site) -> list[tuple[str, type[RequestHandler], dict[str, Any]]]:
    own = {"site": site}
    return [
        (r"/", Home, own),
        (r"/overview", Overview, own),
        (r"/d/([A-Za-z0-9._/-]+)", DashboardPage, own),
        (r"/csv/([A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)?)/([A-Za-z0-9_-]+)", Csv, own),
        (r"/health", Health, own),
        (r"/files/([A-Za-z0-9._/-]+)", File, own),
    ]
