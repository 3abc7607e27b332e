"""One command's connection to the services: a channel per area, and the client's own calls over them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import grpc

from millrace.admin.v1 import admin_pb2_grpc
from millrace.analysis.v1 import analysis_pb2_grpc
from millrace.cli.failures import Failed
from millrace.cli.options import Settings
from millrace.client.channel import CRUD_DEADLINE_S, Connection, call, open_channel
from millrace.client.status import Unreachable
from millrace.errors import MillraceError
from millrace.extract.v1 import extract_pb2_grpc
from millrace.laptop.home import AREAS, Endpoints
from millrace.laptop.home import read_endpoints as home_endpoints
from millrace.storage.v1 import storage_pb2_grpc
from millrace.transform.v1 import transform_pb2_grpc
from millrace.viz.v1 import viz_pb2_grpc

T = TypeVar("T")


def read_endpoints(home: Path) -> Endpoints:
    """Of the stack that runs in `home`. Raises Failed NOT_RUNNING."""
    try:
        return home_endpoints(home)
    except FileNotFoundError:
        raise not_running(home) from None
    except ValueError as error:
        raise Failed(
            f"{home / 'endpoints.json'} cannot be read", reason="NOT_RUNNING", hint="`millrace up` writes it anew"
        ) from error


def plain_words(error: MillraceError) -> str:
    """A transport's failure in a few words: gRPC's own text names every address it tried."""
    if not isinstance(error, Unreachable):
        return error.message
    refused = "Connection refused" in error.message
    return (
        "no answer: the connection was refused"
        if refused
        else f"no answer ({error.metadata.get('grpc_code', 'silence')})"
    )


def not_running(home: Path) -> Failed:
    return Failed(
        f"nothing runs in {home}",
        reason="NOT_RUNNING",
        hint="start it with `millrace up`, or name its folder with --home",
    )


@dataclass(slots=True)
class Session:
    """Opens a channel per service when it is first used. Lives in one event loop; close it there."""

    settings: Settings
    endpoints: Endpoints
    _channels: dict[str, grpc.aio.Channel] = field(default_factory=dict)

    def connection(self, area: str, address: str = "") -> Connection:
        """To whichever replica, or to the one at `address`."""
        target = address or self.endpoints.services.get(area, "")
        if not target:
            raise Failed(f"no address of {area} is known", reason="NOT_RUNNING", hint="`millrace up` writes it anew")
        if target not in self._channels:
            self._channels[target] = open_channel(target)
        return Connection(self._channels[target], self.endpoints.token)

    def addresses(self, area: str) -> Sequence[str]:
        """Of every replica of a service; at least one, empty when it is not known."""
        return self.endpoints.replicas.get(area) or [self.endpoints.services.get(area, "")]

    @property
    def tables(self) -> Any:
        return storage_pb2_grpc.StorageServiceStub(self.connection("storage").channel)

    @property
    def extract(self) -> Any:
        return extract_pb2_grpc.ExtractServiceStub(self.connection("extract").channel)

    @property
    def transform(self) -> Any:
        return transform_pb2_grpc.TransformServiceStub(self.connection("transform").channel)

    @property
    def analysis(self) -> Any:
        return analysis_pb2_grpc.AnalysisServiceStub(self.connection("analysis").channel)

    @property
    def viz(self) -> Any:
        return viz_pb2_grpc.VizServiceStub(self.connection("viz").channel)

    def admin(self, connection: Connection) -> Any:
        return admin_pb2_grpc.AdminServiceStub(connection.channel)

    async def call(
        self,
        area: str,
        method: Callable[..., Any],
        request: Any,
        answer: type[T],
        *,
        resource: str = "",
        tries: int = 10,
    ) -> T:
        """One unary call with the client's repeats, within --timeout."""
        deadline_s = self.settings.timeout_s or CRUD_DEADLINE_S
        return await call(
            self.connection(area), method, request, resource=resource, deadline_s=deadline_s, answer=answer, tries=tries
        )

    async def pages(self, fetch: Callable[[str], Awaitable[Any]], items: str) -> Sequence[Any]:
        """All items of a paged list; `fetch` takes a page token."""
        found: list[Any] = []
        token = ""
        while True:
            page = await fetch(token)
            found += getattr(page, items)
            if not (token := page.next_page_token):
                return found

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close()
        self._channels.clear()


__all__ = ["AREAS", "Endpoints", "Session", "not_running", "plain_words", "read_endpoints"]
