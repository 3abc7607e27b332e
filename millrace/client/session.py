"""`Client`: everything a program does with Millrace, async. `connect` in `blocking` gives the same without async."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from millrace.analysis.v1 import analysis_pb2, query_pb2
from millrace.client.channel import Connection, open_channel
from millrace.client.endpoints import SERVICES, Endpoints, FixedToken
from millrace.client.query import QueryRead, sql_query
from millrace.client.rows import Result
from millrace.client.subscribe import Subscription, subscribe_request
from millrace.client.tables import Columns, Table, create_table, list_tables
from millrace.storage.v1 import storage_pb2
from millrace.types.v1 import types_pb2

Question = str | query_pb2.QuerySpec
"""SQL, or a typed spec."""


class Client:
    """Opens a channel per service when first used. Close it, or use it as a context: `async with Client.find() as client:`."""

    def __init__(self, endpoints: Endpoints, *, namespace: str = "default") -> None:
        self._endpoints, self._namespace = endpoints, namespace
        self._channels: dict[str, Any] = {}

    @classmethod
    def find(
        cls, home: str | Path | None = None, *, token: str | None = None, namespace: str = "default", **targets: str
    ) -> Self:
        """By `targets` (storage="host:port", analysis=…) when any is given, else by endpoints.json of `home`, MILLRACE_HOME or ./.millrace.

        Raises Missing when nothing was started there."""
        unknown = sorted(set(targets) - set(SERVICES))
        if unknown:
            raise TypeError(f"no service is called {unknown[0]!r}; services are {', '.join(SERVICES)}")
        if targets:
            return cls(Endpoints(targets, FixedToken(token or "")), namespace=namespace)
        found = Endpoints.find(home)
        if token is not None:
            found = Endpoints(found.targets, FixedToken(token), found.url)
        return cls(found, namespace=namespace)

    @property
    def endpoints(self) -> Endpoints:
        return self._endpoints

    def connection(self, service: str) -> Connection:
        """For the modules of the core (`append`, `read`, `runs`, ...) and for generated stubs (`.channel`, `.metadata()`)."""
        if service not in self._channels:
            self._channels[service] = open_channel(self._endpoints.target(service))
        return Connection(self._channels[service], self._endpoints.token, self._endpoints.store_id)

    def full_name(self, table: str) -> str:
        """`table` itself when it is a full name, else in this client's namespace."""
        return table if "/" in table else f"namespaces/{self._namespace}/tables/{table}"

    # -- tables
    def table(self, name: str) -> Table:
        """By bare or full name; `T$dead_letters` too. Asks nothing of the server."""
        return Table(self.connection("storage"), self.full_name(name))

    async def create_table(
        self,
        name: str,
        columns: Columns,
        *,
        event_time_column: str = "",
        primary_key: Sequence[str] = (),
        rules: Sequence[storage_pb2.ColumnRule] = (),
        description: str = "",
        sequence_column: str = "",
        native_lookup: bool = False,
    ) -> Table:
        """`columns`: an Arrow schema or name -> type name ("int64", "timestamp[UTC]", "string?").

        Raises ResourceExists, UnsupportedType."""
        await create_table(
            self.connection("storage"),
            self.full_name(name),
            columns,
            event_time_column=event_time_column,
            primary_key=primary_key,
            rules=rules,
            description=description,
            sequence_column=sequence_column,
            native_lookup=native_lookup,
        )
        return self.table(name)

    async def list_tables(self) -> list[storage_pb2.Table]:
        """All tables of the namespace, by name."""
        return await list_tables(self.connection("storage"), f"namespaces/{self._namespace}")

    async def delete_table(self, name: str) -> None:
        """Raises TableNotFound, TableHasDependents."""
        await self.table(name).delete()

    # -- questions
    def _query(
        self, question: Question, params: Mapping[str, Any] | None, versions: Mapping[str, int] | None, max_rows: int
    ) -> QueryRead:
        request = analysis_pb2.QueryRequest(
            encoding=types_pb2.ENCODING_ARROW,
            versions={self.full_name(name): version for name, version in (versions or {}).items()},
            max_rows=max_rows,
            namespace=self._namespace,
            **_asked(question, params),
        )
        return QueryRead(self.connection("analysis"), request)

    async def query(
        self,
        question: Question,
        params: Mapping[str, Any] | None = None,
        *,
        versions: Mapping[str, int] | None = None,
        max_rows: int = 0,
    ) -> Result:
        """The whole answer: `.to_arrow()`, `.to_pandas()`, `.to_polars()`, `.versions`. `params`: values for `$name`. `versions`:
        table -> version to read. `max_rows`: 0 means 1,000,000. Raises SqlInvalid, TableNotFound, ResultTooLarge."""
        async with self._query(question, params, versions, max_rows) as running:
            batches = [batch async for batch in running]
            table = pa.Table.from_batches(batches, running.schema)
            return Result(table, dict(running.header.versions), running.end.truncated)

    @asynccontextmanager
    async def stream_query(
        self,
        question: Question,
        params: Mapping[str, Any] | None = None,
        *,
        versions: Mapping[str, int] | None = None,
        max_rows: int = 0,
    ) -> AsyncIterator[QueryRead]:
        """The answer batch by batch: `async with client.stream_query(…) as rows: async for batch in rows`."""
        async with self._query(question, params, versions, max_rows) as running:
            yield running

    def subscribe(
        self,
        question: Question,
        params: Mapping[str, Any] | None = None,
        *,
        key_columns: Sequence[str] = (),
        min_interval_s: float | None = None,
        deterministic: bool = False,
    ) -> Subscription:
        """The answer, and again whenever the data changes: `async for frame in client.subscribe(…): frame.table`.

        `key_columns` name a row: then only what changed travels. `min_interval_s`: least time between frames, 0.05 to 60 (0.25)."""
        request = analysis_pb2.SubscribeRequest(
            encoding=types_pb2.ENCODING_ARROW,
            namespace=self._namespace,
            deterministic=deterministic,
            **_asked(question, params),
        )
        subscribe_request(request, key_columns=key_columns, min_interval_s=min_interval_s)
        return Subscription(self.connection("analysis"), request)

    async def aclose(self) -> None:
        """Closes the channels; what still runs on them ends. Safe to repeat."""
        channels, self._channels = list(self._channels.values()), {}
        for channel in channels:
            await channel.close(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _asked(question: Question, params: Mapping[str, Any] | None) -> dict[str, Any]:
    if isinstance(question, str):
        return {"sql": sql_query(question, params)}
    return {"spec": question}
