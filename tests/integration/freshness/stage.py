"""Storage, extract, transform and analysis as they run, in one event loop, over a store whose log can be told to fail."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa

from millrace.cli.explaining import Explanation, explain
from millrace.cli.options import Settings as CommandSettings
from millrace.cli.session import Session
from millrace.client.channel import Connection
from millrace.client.resources import Resources
from millrace.client.tables import create_table
from millrace.extract.v1 import extract_pb2, extract_pb2_grpc
from millrace.laptop.home import Endpoints
from millrace.server.runtime import Composition, Runtime, ServiceSpec
from millrace.server.settings import Secret
from millrace.server.testing import Served, running
from millrace.storage.v1 import freshness_pb2 as pb
from millrace.storage.v1 import storage_pb2, storage_pb2_grpc
from millrace.transform.v1 import transform_pb2, transform_pb2_grpc
from svc_analysis.__main__ import compose as compose_analysis
from svc_analysis.config import Settings as AnalysisSettings
from svc_extract.__main__ import compose as compose_extract
from svc_extract.config import Settings as ExtractSettings
from svc_storage.__main__ import compose as compose_storage
from svc_storage.config import Settings as StorageSettings
from svc_storage.domain.freshness.explain import Freshness
from svc_storage.domain.opened import OpenTable
from svc_transform.__main__ import compose as compose_transform
from svc_transform.config import Settings as TransformSettings

SCHEMA = pa.schema([pa.field("id", pa.int64(), nullable=False), pa.field("name", pa.string())])
SPACE = "namespaces/default"


@dataclass(slots=True)
class Line:
    """A source, its table `raw`, a transform, and its table `clean`; full names."""

    source: str
    raw: str
    transform: str
    clean: str
    file: Path
    spec: extract_pb2.SourceSpec
    recipe: transform_pb2.TransformSpec
    rows: int = 0


@dataclass(slots=True)
class Stage:
    folder: Path
    storage: Served
    extract: Served
    transform: Served
    analysis: Served
    freshness: Freshness
    worker: Any
    """Transform's, which runs recipes."""
    numbers: Any = field(default_factory=itertools.count)
    channels: dict[str, Any] = field(default_factory=dict)

    def id(self) -> str:
        return f"r{next(self.numbers)}"

    def channel(self, area: str) -> Any:
        if area not in self.channels:
            self.channels[area] = getattr(self, area).channel()
        return self.channels[area]

    @property
    def tables(self) -> Connection:
        return Connection(self.channel("storage"))

    @property
    def resources(self) -> Resources:
        return Resources(self.tables)

    async def open(self, name: str) -> OpenTable:
        return await self.freshness._opened.table(name)

    # -- making -------------------------------------------------------------------------------------------------------
    async def line(self, *, rows: int = 20, **spec: Any) -> Line:
        """A line through which `rows` rows have gone."""
        id = self.id()
        raw, clean = f"{SPACE}/tables/raw_{id}", f"{SPACE}/tables/clean_{id}"
        await create_table(self.tables, raw, SCHEMA)
        file = self.folder / f"{id}.csv"
        file.write_text("id,name\n")
        source = extract_pb2.SourceSpec(
            table=raw, files=extract_pb2.FilesConnector(path=str(file)), continuous=True, **spec
        )
        source.files.poll_interval.FromMilliseconds(100)
        source.commit_interval.FromMilliseconds(100)
        recipe = transform_pb2.TransformSpec(sql=f"SELECT id, name FROM raw_{id}", output=clean, driving_table=raw)
        made = Line(f"{SPACE}/sources/s_{id}", raw, f"{SPACE}/transforms/t_{id}", clean, file, source, recipe)
        self.write(made, rows)
        await self.put_source(made)
        await self.put_transform(made)
        await self.arrived(made.clean, rows)
        await self.settled(made)
        return made

    async def settled(self, line: Line) -> None:
        """Until every hop has told how it is, and is well."""

        async def true() -> bool:
            try:
                return all(hop.state == pb.HOP_STATE_OK for hop in (await self.ask(line.clean)).hops)
            except grpc.aio.AioRpcError:
                return False

        await until(true)

    def write(self, line: Line, rows: int, text: str = "{i},name {i}\n") -> None:
        with line.file.open("a") as file:
            file.write("".join(text.format(i=line.rows + i) for i in range(rows)))
        line.rows += rows

    async def put_source(self, line: Line) -> None:
        stub: Any = extract_pb2_grpc.ExtractServiceStub(self.channel("extract"))
        source = extract_pb2.Source(name=line.source, spec=line.spec)
        await stub.PutSource(extract_pb2.PutSourceRequest(request_id=self.id(), source=source))

    async def put_transform(self, line: Line) -> None:
        stub: Any = transform_pb2_grpc.TransformServiceStub(self.channel("transform"))
        made = transform_pb2.Transform(name=line.transform, spec=line.recipe)
        await stub.PutTransform(transform_pb2.PutTransformRequest(request_id=self.id(), transform=made))

    # -- seeing -------------------------------------------------------------------------------------------------------
    async def arrived(self, table: str, rows: int) -> None:
        stub: Any = storage_pb2_grpc.StorageServiceStub(self.channel("storage"))

        async def true() -> bool:
            try:
                return (await stub.GetTable(storage_pb2.GetTableRequest(name=table))).table.row_count >= rows
            except grpc.aio.AioRpcError:  # a transform makes its table anew
                return False

        await until(true)

    async def ask(self, table: str) -> pb.ExplainFreshnessResponse:
        stub: Any = storage_pb2_grpc.StorageServiceStub(self.channel("storage"))
        return await stub.ExplainFreshness(pb.ExplainFreshnessRequest(table=table), timeout=5)

    async def explain(self, table: str, **elsewhere: str) -> Explanation:
        """As the command does. `elsewhere`: addresses of services that are not the stage's."""
        token = self.folder / "token"
        token.write_text("local-token")
        at = {area: getattr(self, area).target for area in ("storage", "extract", "transform", "analysis")}
        at |= {"viz": self.analysis.target, **elsewhere}
        session = Session(CommandSettings(home=self.folder), Endpoints(at, "", token, 0, self.folder, {}))
        try:
            return await explain(session, table)
        finally:
            await session.close()


async def until(true: Callable[[], Awaitable[bool]], limit_s: float = 30.0) -> None:
    async with asyncio.timeout(limit_s):
        while not await true():
            await asyncio.sleep(0.1)


@asynccontextmanager
async def staged(folder: Path) -> AsyncIterator[Stage]:
    kept: list[Any] = []
    workers: list[Any] = []

    async def with_worker(settings: TransformSettings, runtime: Runtime) -> Composition:
        made = await compose_transform(settings, runtime)
        run: Any = made.background["transforms"]
        workers.append(run.__self__._worker)
        return made

    async def compose(settings: StorageSettings, runtime: Runtime) -> Composition:
        made = await compose_storage(settings, runtime)
        kept.append(made.servicers[0][1])
        return made

    env = {"MILLRACE_HOME": str(folder)}
    storage_env = {**env, "MILLRACE_STORAGE_BACKEND": "memory"}
    async with running(
        ServiceSpec(name="storage", settings=StorageSettings.from_env, compose=compose), storage_env, home=folder
    ) as storage:
        rest = {"home": folder, "targets": {"storage": storage.target}}
        own = {
            "extract": {"MILLRACE_EXTRACT_FILE_ROOTS": str(folder), "MILLRACE_EXTRACT_LEASE_TTL": "5s"},
            "transform": {"MILLRACE_TRANSFORM_LEASE_TTL": "5s"},
        }
        extract = ServiceSpec(name="extract", settings=ExtractSettings.from_env, compose=compose_extract)
        transform = ServiceSpec(name="transform", settings=TransformSettings.from_env, compose=with_worker)
        analysis = ServiceSpec(name="analysis", settings=AnalysisSettings.from_env, compose=compose_analysis)
        async with (
            running(extract, {**env, **own["extract"]}, token=Secret("extract-token"), **rest) as first,
            running(transform, {**env, **own["transform"]}, token=Secret("transform-token"), **rest) as second,
            running(analysis, env, token=Secret("analysis-token"), **rest) as third,
        ):
            yield Stage(folder, storage, first, second, third, kept[0]._freshness, workers[0])
