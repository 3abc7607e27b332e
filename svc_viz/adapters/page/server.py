"""Bokeh's server and our pages on the event loop that the gRPC server runs on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from bokeh.application import Application
from bokeh.application.handlers.function import FunctionHandler
from bokeh.document import Document
from bokeh.server.server import BaseServer
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.netutil import bind_sockets

from svc_viz.adapters.page.gate import CookieUser, Doorkeeper, Gate, IngressDoor
from svc_viz.adapters.page.handlers import TOKEN_S, NoPage, Site, patterns
from svc_viz.adapters.page.keys import load_key, secret_of
from svc_viz.adapters.page.overview import OverviewSession
from svc_viz.adapters.page.sessions import DashboardSession
from svc_viz.adapters.page.visitors import Everybody, OnePerson
from svc_viz.domain.board import NoticeBoard
from svc_viz.domain.desk import Desk
from svc_viz.domain.hub import Hub
from svc_viz.domain.state import PageState

log = logging.getLogger(__name__)
logging.getLogger("bokeh.server.views.ws").setLevel(logging.ERROR)  # a tab that closes is no warning

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
GOODBYE_S = 0.5
MAX_MESSAGE_BYTES = 256 * 1024
"""From browsers: commands and brushes are small."""


class PageServer:
    """Serves until `stop`. `hosts`: further names that the page may be opened under, with port."""

    def __init__(
        self,
        board: NoticeBoard,
        hub: Hub,
        *,
        home: Path,
        host: str,
        port: int,
        hosts: Collection[str] = (),
        reuse_port: bool = False,
        people: Everybody | None = None,
        painted: Callable[[float], None] = lambda _: None,
    ) -> None:
        """`people`: who an ingress signs in; None: the one who has the key. `painted`: told each frame's seconds."""
        self._painted = painted
        self._home, self._host, self._port, self._more_hosts, self._reuse = home, host, port, tuple(hosts), reuse_port
        self._server: BaseServer | None = None
        self._http: Any = None
        self._people = people
        self.site = Site(people or OnePerson(board, hub))
        self.key = ""

    @property
    def port(self) -> int:
        return self._port

    @property
    def sessions(self) -> int:
        """Open Bokeh sessions."""
        return len(self._server.get_sessions("/b")) if self._server is not None else 0

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self._port}/"

    async def start(self) -> None:
        """Binds and serves. Raises OSError when the port is taken."""
        self.key = load_key(self._home)
        sockets = bind_sockets(self._port, self._host, reuse_port=self._reuse)
        self._port = sockets[0].getsockname()[1]
        hosts = {f"{name}:{self._port}" for name in (*LOOPBACK, self._host)} | {
            name.lower() for name in self._more_hosts
        }
        door = Doorkeeper(self.key, self._port, frozenset(hosts))
        if self._people is not None:
            door = IngressDoor(self.key, self._port, frozenset(hosts), self._people)
        app = Gate(
            {"/b": Application(FunctionHandler(self._make))},
            door,
            use_index=False,
            extra_patterns=patterns(self.site),
            extra_websocket_origins=sorted(hosts),
            secret_key=secret_of(self.key),
            sign_sessions=True,
            generate_session_ids=False,
            auth_provider=CookieUser(door, "local"),
            xsrf_cookies=True,
            include_headers=[],
            include_cookies=[],
            session_token_expiration=TOKEN_S,
            websocket_max_message_size_bytes=MAX_MESSAGE_BYTES,
            check_unused_sessions_milliseconds=3000,
            unused_session_lifetime_milliseconds=15000,
            stats_log_frequency_milliseconds=600_000,
            default_handler_class=NoPage,
            default_handler_args={"site": self.site},
        )
        self._http = HTTPServer(app, max_body_size=64 * 1024)
        self._http.add_sockets(sockets)
        self._server = BaseServer(IOLoop.current(), app, self._http)
        self._server.start()
        await asyncio.to_thread(
            lambda: self.site.assets.packed
        )  # a quarter of a second of compression, once, beside the loop

    def _make(self, doc: Document) -> None:
        """Builds a session's document. An exception here would hang the session for ever: it is caught, the page says so."""
        doc.config.reconnect_session = False
        doc.title = ""
        try:
            self._fill(doc)
        except Exception:
            log.exception("a page could not be built")

    def _fill(self, doc: Document) -> None:
        context: Any = doc.session_context
        dashboard, state, visit = self.site.waiting.get(context.id, (None, PageState(), self.site.visits.nobody()))
        if dashboard is None:
            slug = (context.request.arguments.get("slug") or [""])[0]
            dashboard = visit.board.dashboard(slug) if slug else None
        if dashboard is None:
            OverviewSession(doc, visit.board)
            return
        DashboardSession(doc, Desk(dashboard, state, visit.hub, visit.board), visit.board, self._painted)

    async def stop(self) -> None:
        """Closes the port and every connection, so that browsers look for the next instance at once. Safe to repeat."""
        server, self._server = self._server, None
        if server is None:
            return
        await self._close_sockets(server)
        server.stop()
        await self._http.close_all_connections()
        await asyncio.sleep(0)

    async def _close_sockets(self, server: BaseServer) -> None:
        """Tells every tab; those that do not answer the goodbye in time are cut off."""
        sockets = [connection._socket for connection in tuple(server._tornado._clients)]
        for socket in sockets:
            socket.close(1001, "going away")
        ends = asyncio.get_running_loop().time() + GOODBYE_S
        while server._tornado._clients and asyncio.get_running_loop().time() < ends:
            await asyncio.sleep(0.01)
        for socket in sockets:
            if (connection := socket.ws_connection) is not None and connection.stream is not None:
                connection.stream.close()
