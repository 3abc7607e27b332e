"""The driver, set up as storage.md section 5 measured it, and two ways in: `run` on the event loop, `wait` on a worker thread.

Statements are CQL texts with `?`, prepared once. Rows come back as tuples. A request is repeated by itself only where repeating cannot
hurt: while no connection has room for it, and by the driver on the next node (every write of ours is idempotent, or conditional and told
from another's by its id). What comes out otherwise is a `MillraceError`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from cassandra import AuthenticationFailed, ConsistencyLevel
from cassandra.auth import AuthProvider, PlainTextAuthenticator
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile, ResponseFuture
from cassandra.cluster import Session as DriverSession
from cassandra.io.libevreactor import LibevConnection
from cassandra.policies import ConstantReconnectionPolicy, DCAwareRoundRobinPolicy, RetryPolicy, TokenAwarePolicy
from cassandra.query import BatchStatement, BatchType, BoundStatement, PreparedStatement, tuple_factory

from millrace import errors
from millrace.server.settings import Secret
from svc_storage.adapters.cassandra import failures

_log = logging.getLogger(__name__)
Row = tuple[Any, ...]
DEFAULT_PORT = 9042
TIMEOUT_S = 10.0
"""Of one request; the server's own limits are 2 to 5 s."""
BUSY_S = 20.0
AGAIN_S = (0.01, 0.05)
RECONNECT_S = 0.5
AGREE_S = 30.0
BUFFER_BYTES = 262_144
WRITES_IN_FLIGHT = 4 << 20
READS_IN_FLIGHT = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the keyspace is. `contact_points`: `host` or `host:port`, all with one port. `datacenter` "": the only one there is.
    `replication`: 0 = as many as the cluster has nodes, at most 3; only used when the keyspace is made. `user`, `password`: references,
    `env:NAME` (looked up in `environment`) or `file:/path`."""

    contact_points: tuple[str, ...]
    keyspace: str = "millrace"
    datacenter: str = ""
    replication: int = 0
    user: str = ""
    password: str = ""
    environment: Mapping[str, Secret] = field(default_factory=dict, repr=False)
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None


class _Connection(LibevConnection):  # type: ignore[misc]
    """libev: the asyncio reactor broke large answers of protocol 5 in half of all runs."""

    in_buffer_size = BUFFER_BYTES
    out_buffer_size = BUFFER_BYTES


class _Retry(RetryPolicy):  # type: ignore[misc]
    """As the driver's own, but a plain write that timed out is tried once more: all of ours may be."""

    def on_write_timeout(
        self,
        query: Any,
        consistency: Any,
        write_type: Any,
        required_responses: int,
        received_responses: int,
        retry_num: int,
    ) -> tuple[int, Any]:
        if retry_num == 0 and getattr(query, "is_idempotent", False):
            return self.RETRY, consistency
        return self.RETHROW, None


class _Credentials(AuthProvider):  # type: ignore[misc]
    """Read anew for each connection: what a file holds may be changed while storage runs."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def new_authenticator(self, host: str) -> Any:
        user, password = (self._value(reference) for reference in (self._place.user, self._place.password))
        return PlainTextAuthenticator(user, password)

    def _value(self, reference: str) -> str:
        kind, _, name = reference.partition(":")
        if kind == "env":
            found = self._place.environment.get(name)
            return found.reveal() if found is not None else ""
        try:
            return Path(name).read_text().strip()
        except OSError as error:
            raise AuthenticationFailed(f"a file of Cassandra's credentials cannot be read: {error.strerror}") from error


class Budget:
    """Bytes that may be under way at once; more than one connection can buffer is refused by the driver."""

    def __init__(self, limit: int) -> None:
        self._limit, self._used = limit, 0
        self._changed = threading.Condition()

    def take(self, size: int) -> None:
        """Blocking. Waits for room; something larger than the limit goes alone."""
        with self._changed:
            while self._used and self._used + size > self._limit:
                self._changed.wait()
            self._used += size

    def give(self, size: int) -> None:
        with self._changed:
            self._used -= size
            self._changed.notify_all()

    @contextlib.contextmanager
    def of(self, size: int) -> Iterator[None]:
        self.take(size)
        try:
            yield
        finally:
            self.give(size)


class Session:
    """Made by `connect`, ended by `close`. Thread-safe."""

    def __init__(self, cluster: Cluster, driver: DriverSession, place: Place) -> None:
        self.place = place
        self.cluster, self._driver = cluster, driver
        self.writes, self.reads = Budget(WRITES_IN_FLIGHT), Budget(READS_IN_FLIGHT)
        self._keyspace: str | None = None
        self._prepared: dict[str, PreparedStatement] = {}
        self._preparing = threading.Lock()

    def use(self, keyspace: str) -> None:
        """Tables without a keyspace are meant in this one, in what is prepared from now on."""
        self._keyspace = keyspace

    def prepare(self, *texts: str) -> None:
        """Blocking. Known in advance, a text costs no round trip on its first use."""
        for cql in texts:
            self._statement(cql)

    # -- on the event loop
    async def run(self, cql: str, *values: Any, serial: bool = False, timeout_s: float = TIMEOUT_S) -> Sequence[Row]:
        """All rows. `serial`: a read that first settles whatever conditional write is under way. For reads, and for writes that may be
        repeated. Raises StoreUnavailable."""
        return await self._answer(cql, values, serial, timeout_s, _plain)

    async def cas(self, cql: str, *values: Any, timeout_s: float = TIMEOUT_S) -> Row | None:
        """A conditional write: None when it was applied, else the row that stood in its way (`[applied]` left out).

        Raises StoreUnavailable when it surely did not happen, OutcomeUnknown when only reading can tell."""
        (row,) = await self._answer(cql, values, False, timeout_s, _conditional)
        return None if row[0] else tuple(row[1:])

    async def _answer(
        self, cql: str, values: Sequence[Any], serial: bool, timeout_s: float, fail: Callable[..., errors.MillraceError]
    ) -> Sequence[Row]:
        if cql not in self._prepared:
            await asyncio.to_thread(self._statement, cql)
        until = time.monotonic() + BUSY_S
        while True:
            request = self._request(cql, values, serial, timeout_s)
            try:
                return await asyncio.wrap_future(_collected(request))
            except Exception as error:
                if not _again(error, fail) or time.monotonic() > until:
                    raise fail(error, cql, sent=bool(request.attempted_hosts)) from error
            await asyncio.sleep(random.uniform(*AGAIN_S))

    # -- on a worker thread
    def wait(self, cql: str, *values: Any, serial: bool = False, timeout_s: float = TIMEOUT_S) -> Sequence[Row]:
        """`run`, blocking."""
        return self.start(cql, *values, serial=serial, timeout_s=timeout_s).rows()

    def start(self, cql: str, *values: Any, serial: bool = False, timeout_s: float = TIMEOUT_S) -> Pending:
        """The same without waiting for the answer."""
        self._statement(cql)
        return Pending(lambda: self._request(cql, values, serial, timeout_s), cql)

    def start_batch(self, cql: str, rows: Sequence[Sequence[bytes | None]]) -> Pending:
        """One statement with the serialised values of several rows of one partition, together, without waiting for the answer."""
        statement = self._statement(cql)

        def request() -> ResponseFuture:
            batch = BatchStatement(BatchType.UNLOGGED, consistency_level=ConsistencyLevel.LOCAL_QUORUM)
            for values in rows:
                bound = BoundStatement(statement)
                bound.values = values
                batch.add(bound)
            batch.is_idempotent = True
            return self._driver.execute_async(batch, timeout=TIMEOUT_S)

        return Pending(request, cql)

    def wait_cas(self, cql: str, *values: Any, timeout_s: float = TIMEOUT_S) -> Row | None:
        """`cas`, blocking."""
        (row,) = Pending(lambda: self._request(cql, values, False, timeout_s), cql, _conditional).rows()
        return None if row[0] else tuple(row[1:])

    def define(self, cql: str) -> None:
        """Blocking. One statement of the data definition language; returns when the nodes agree. Raises StoreUnavailable."""
        try:
            self._driver.execute(cql, timeout=60.0)
        except Exception as error:
            raise failures.translated(error, "a change of the schema") from error

    def agree(self) -> None:
        """Blocking. Waits until all nodes that are up know the same schema, half a minute at most."""
        until = time.monotonic() + AGREE_S
        while len(self._schema_versions()) > 1:  # asked of each: what one node knows of the others is a second old
            if time.monotonic() > until:
                _log.warning("the nodes of Cassandra do not agree about the schema")
                return
            time.sleep(0.1)

    def _schema_versions(self) -> set[object]:
        asked = [
            self._driver.execute_async("SELECT schema_version FROM system.local WHERE key = 'local'", host=host)
            for host in list(self._driver.get_pool_state())
            if host.is_up
        ]
        found: set[object] = set()
        for answer in asked:
            with contextlib.suppress(Exception):  # a node that went down meanwhile
                found.update(row[0] for row in answer.result())
        return found

    async def close(self) -> None:
        await asyncio.to_thread(self.cluster.shutdown)

    def _statement(self, cql: str) -> PreparedStatement:
        found = self._prepared.get(cql)
        if found is None:
            with self._preparing:
                try:
                    found = self._prepared[cql] = self._prepared.get(cql) or self._driver.prepare(
                        cql, keyspace=self._keyspace
                    )
                except Exception as error:
                    raise failures.translated(error, "while a statement was prepared") from error
        return found

    def _request(self, cql: str, values: Sequence[Any], serial: bool, timeout_s: float) -> ResponseFuture:
        bound = BoundStatement(self._statement(cql)).bind(values)
        bound.consistency_level = ConsistencyLevel.LOCAL_SERIAL if serial else ConsistencyLevel.LOCAL_QUORUM
        bound.serial_consistency_level = ConsistencyLevel.LOCAL_SERIAL
        bound.is_idempotent = " IF " not in cql
        return self._driver.execute_async(bound, timeout=timeout_s)


class Pending:
    """A request under way, for worker threads."""

    def __init__(
        self,
        request: Callable[[], ResponseFuture],
        cql: str,
        fail: Callable[..., errors.MillraceError] | None = None,
    ) -> None:
        self._make, self._cql, self._fail = request, cql, fail or _plain
        self._request = request()
        self._rows = _collected(self._request)

    def rows(self) -> Sequence[Row]:
        """Blocking. Raises as `run`."""
        until = time.monotonic() + BUSY_S
        while True:
            try:
                return self._rows.result()
            except Exception as error:
                if not _again(error, self._fail) or time.monotonic() > until:
                    raise self._fail(error, self._cql, sent=bool(self._request.attempted_hosts)) from error
            time.sleep(random.uniform(*AGAIN_S))
            self._request = self._make()
            self._rows = _collected(self._request)

    @property
    def answered(self) -> bool:
        return self._rows.done()

    def settle(self) -> None:
        """Blocking. Waits for the answer, whatever it is."""
        with contextlib.suppress(errors.MillraceError):
            self.rows()

    def when_answered(self, call: Callable[[], None]) -> None:
        """`call` once when the answer is there, good or bad; on the driver's thread, or now."""
        self._rows.add_done_callback(lambda _: call())


def connect(place: Place) -> Session:
    """Blocking. Raises StoreUnavailable, NotAllowed."""
    logging.getLogger("cassandra").setLevel(logging.ERROR)  # it warns twice a second while a node is away
    hosts, port = _hosts(place.contact_points)
    balancing = TokenAwarePolicy(DCAwareRoundRobinPolicy(place.datacenter), shuffle_replicas=False)
    profile = ExecutionProfile(
        load_balancing_policy=balancing,
        retry_policy=_Retry(),
        consistency_level=ConsistencyLevel.LOCAL_QUORUM,
        serial_consistency_level=ConsistencyLevel.LOCAL_SERIAL,
        request_timeout=TIMEOUT_S,
        row_factory=tuple_factory,
    )
    cluster = Cluster(
        hosts,
        port=port,
        protocol_version=5,
        connection_class=_Connection,
        sockopts=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],  # without it a commit takes 48 ms instead of 2.3
        execution_profiles={EXEC_PROFILE_DEFAULT: profile},
        reconnection_policy=ConstantReconnectionPolicy(RECONNECT_S, max_attempts=None),
        auth_provider=_Credentials(place) if place.user else None,
        ssl_context=_tls(place),
        compression=False,  # chunks are compressed
        connect_timeout=5.0,
        control_connection_timeout=5.0,
        max_schema_agreement_wait=AGREE_S,
    )
    try:
        return Session(cluster, cluster.connect(), place)
    except Exception as error:
        known = {host.datacenter for host in cluster.metadata.all_hosts() if host.datacenter}
        cluster.shutdown()
        if place.datacenter and known and place.datacenter not in known:
            raise errors.StoreUnavailable(
                f"no node of Cassandra is in the datacenter `{place.datacenter}`; there is {', '.join(sorted(known))}",
                hint="set MILLRACE_STORAGE_CASSANDRA_DATACENTER",
            ) from error
        raise failures.translated(error, "when it was connected to") from error


def _hosts(contact_points: Sequence[str]) -> tuple[list[str], int]:
    pairs = [point.rpartition(":") if point.count(":") == 1 else (point, "", "") for point in contact_points]
    ports = {int(port) if port.isdigit() else DEFAULT_PORT for _, _, port in pairs}
    if len(ports) != 1:
        raise errors.FieldInvalid(
            "Cassandra's contact points must share one port", field="MILLRACE_STORAGE_CASSANDRA_CONTACT_POINTS"
        )
    return [host for host, *_ in pairs], ports.pop()


def _tls(place: Place) -> ssl.SSLContext | None:
    if place.tls_ca is None:
        return None
    try:
        context = ssl.create_default_context(cafile=str(place.tls_ca))
        context.check_hostname = False  # nodes are reached by the addresses they gossip; the CA is what is trusted
        if place.tls_cert is not None:
            context.load_cert_chain(place.tls_cert, place.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise errors.StoreUnavailable(
            f"Cassandra's certificates cannot be read: {type(error).__name__}",
            hint="see MILLRACE_STORAGE_CASSANDRA_TLS_CA",
        ) from error
    return context


def _plain(error: BaseException, cql: str, *, sent: bool) -> errors.MillraceError:
    return failures.translated(error, _what(cql))


def _again(error: BaseException, fail: Callable[..., errors.MillraceError]) -> bool:
    """Whether the same is sent once more without telling anybody."""
    return failures.is_busy(error) or (fail is _plain and failures.was_disturbed(error))


def _conditional(error: BaseException, cql: str, *, sent: bool) -> errors.MillraceError:
    if failures.has_not_happened(error, sent=sent):
        return failures.translated(error, _what(cql))
    return failures.unknown(error, _what(cql))


def _what(cql: str) -> str:
    """ "SELECT on chunks": for messages."""
    words = cql.split()
    verb = words[0].upper()
    table = words[1] if verb == "UPDATE" else next((b for a, b in pairwise(words) if a in ("FROM", "INTO")), "")
    return f"{verb} on {table.partition('(')[0]}"


def _collected(request: ResponseFuture) -> Future[list[Row]]:
    """All pages of the answer."""
    done: Future[list[Row]] = Future()
    rows: list[Row] = []

    def more(page: Sequence[Row] | None) -> None:
        rows.extend(page or ())
        if request.has_more_pages:
            request.start_fetching_next_page()
        else:
            done.set_result(rows)

    request.add_callbacks(more, done.set_exception)
    return done
