"""Connections: a channel, who calls, and how one call is made.

`Connection` takes any `grpc.aio.Channel`: the client's own (`open_channel`), or a service's channel to its peer, which
adds token, deadline and trace by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import grpc

from millrace import errors
from millrace.client import status
from millrace.client.resume import Backoff, resumable

AUTHORIZATION = "authorization"
RESOURCE = "x-millrace-resource"
MAX_RESOURCE = 400
STORE_ID = "x-millrace-store-id"

CRUD_DEADLINE_S = 10.0
LEASE_DEADLINE_S = 3.0
PLAN_DEADLINE_S = 30.0
QUERY_DEADLINE_S = 300.0

CHANNEL_OPTIONS: tuple[tuple[str, int | str], ...] = (
    # Replicas behind one target are called in turn; one that is down is left out.
    ("grpc.service_config", '{"loadBalancingConfig":[{"round_robin":{}}]}'),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.ping_timeout_ms", 10_000),  # what keepalive really waits for: gRPC's own default is 60 s
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", 4 << 20),
    ("grpc.max_send_message_length", 4 << 20),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 1 << 20),
    # Repeating is decided here, by reasons; gRPC's own retries know only codes.
    ("grpc.enable_retries", 0),
    # The default of 1 to 120 s would keep a restarted server waiting for us.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)

TokenSource = Callable[[], str]
"""Asked at each call, so that a token may change; "" sends none."""

_Answer = TypeVar("_Answer")


def open_channel(target: str) -> grpc.aio.Channel:
    """A plaintext channel to "host:port" (loopback, or the mesh's own TLS), or to several replicas, "ipv4:host:port,host:port".

    Connects when first used; the caller closes it."""
    return grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS)


@dataclass(frozen=True, slots=True)
class Connection:
    """A channel to one service and as whom it is used. Holds nothing that needs closing: the channel is its maker's.

    `token`: None leaves authorisation to the channel. `store_id`: the id in the data folder, for direct reads."""

    channel: grpc.aio.Channel
    token: TokenSource | None = None
    store_id: str = ""

    def acting_as(self, token: str) -> Connection:
        """The same channel with a caller's token instead: inside that caller's request, and only there."""
        return replace(self, token=lambda: token)

    def metadata(self, resource: str = "") -> tuple[tuple[str, str], ...]:
        """What every call sends; `resource` is the full name that authorisation looks at."""
        # A name that metadata cannot carry is no name: the server says so, gRPC would only fail.
        fit = resource.isascii() and resource.isprintable() and len(resource) <= MAX_RESOURCE
        pairs = [(RESOURCE, resource)] if resource and fit else []
        if self.store_id:
            pairs.append((STORE_ID, self.store_id))
        if self.token is not None and (token := self.token()):
            pairs.append((AUTHORIZATION, f"Bearer {token}"))
        return tuple(pairs)


async def call(
    connection: Connection,
    method: Callable[..., Any],
    request: Any,
    *,
    resource: str = "",
    deadline_s: float = CRUD_DEADLINE_S,
    answer: type[_Answer],
    tries: int = 10,
) -> _Answer:
    """One unary call of a method that may be repeated (NO_SIDE_EFFECTS, or IDEMPOTENT with its `request_id` in `request`).

    Repeats what section 5 of the contracts lets a client repeat, with back-off, until `deadline_s` is over. Raises millrace.errors."""
    backoff = Backoff(tries=tries, limit_s=deadline_s)
    before: errors.MillraceError | None = None
    while True:
        try:
            found = await status.raising(
                method(request, metadata=connection.metadata(resource), timeout=backoff.left_s())
            )
        except status.CALL_ERRORS as error:
            failure = status.error_of(error)
            if before is not None and isinstance(failure, errors.DeadlineTooShort):
                raise before from error  # what kept the answer away says more than that time ran out
            if not resumable(failure):
                raise failure from error
            await backoff.pause(failure)
            before = failure
            continue
        assert isinstance(found, answer)
        return found
