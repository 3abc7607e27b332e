"""LookupRows on 1M rows while rows are appended: one key, and a hundred, drawn at random, one call after another, over gRPC.

Another process appends 1,000 rows four times a second, of keys that are there and keys that are new. On Cassandra once from the files and
once from the derived CQL table, which has to follow those appends at the same time. The aim: one key below 20 ms at p99 from the
derived table.

What limits it: a look-up at the newest version first asks the log whether there is a newer one (a round trip), then the derived table (one
more, side by side for several keys); its tail is made by the appends' own work on the same cores, in the node and in the service.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import statistics
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from bench import pairs, serving, stores
from millrace import errors
from millrace.client import Client
from millrace.client.channel import Connection, call, open_channel
from millrace.client.tables import Table
from millrace.storage.v1 import storage_pb2, storage_pb2_grpc
from millrace.wire.schema import schema_to_proto
from svc_storage.adapters.cassandra.session import Place, connect

ROWS = 1_000_000
SECONDS = 15.0
WARM_S = 4.0
LONGEST_WARM_S = 45.0
POINTS = "MILLRACE_STORAGE_CASSANDRA_CONTACT_POINTS"
SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("at", pa.timestamp("us", "UTC")),
        pa.field("price", pa.float64()),
        pa.field("status", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    store: str
    native: bool = False


CASES = (
    Case("cassandra, derived CQL table", "cassandra", native=True),
    Case("cassandra, files", "cassandra"),
    Case("local", "local"),
    Case("memory", "memory"),
    Case("s3 (weed)", "s3"),
)


def rows(ids: npt.NDArray[np.int64]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [
            pa.array(ids, pa.int64()),
            pa.array(ids * 1_000, pa.int64()).view(pa.timestamp("us", "UTC")),
            pa.array(ids / 7.0),
            pa.array([f"status {value % 1_000}" for value in ids.tolist()]),
        ],
        schema=SCHEMA,
    )


async def new_table(connection: Connection, *, native: bool) -> str:
    name = f"namespaces/default/tables/t{uuid.uuid4().hex[:10]}"
    table = storage_pb2.Table(name=name, schema=schema_to_proto(SCHEMA), primary_key=["id"], native_lookup=native)
    request = storage_pb2.CreateTableRequest(request_id=uuid.uuid4().hex, table=table)
    stub = storage_pb2_grpc.StorageServiceStub(connection.channel)
    await call(connection, stub.CreateTable, request, answer=storage_pb2.CreateTableResponse)
    return name


async def append(target: str, token: str, name: str) -> None:
    """What the other process does, until it is ended."""
    dice = np.random.default_rng(1)
    async with Client.find(storage=target, token=token) as client, client.table(name).writer() as writer:
        while True:
            began = time.perf_counter()
            await writer.append(rows(dice.integers(0, ROWS + ROWS // 10, 1_000)))
            await writer.flush()
            await asyncio.sleep(max(0.0, 0.25 - (time.perf_counter() - began)))


async def measure(process: serving.Process, case: Case, points: str) -> list[dict[str, str]]:
    async with Client.find(storage=process.target, token=process.token) as client:
        connection = Connection(open_channel(process.target), token=lambda: process.token)
        name = await new_table(connection, native=case.native)
        await connection.channel.close()
        table = client.table(name)
        print(f"  {case.name}: loading {ROWS:,} rows", file=sys.stderr)
        for start in range(0, ROWS, 100_000):
            await table.append(rows(np.random.default_rng(start).permutation(100_000) + start))
        if case.native:
            await asyncio.to_thread(_filled, points, (await table.info()).uid)
        command = [sys.executable, "-m", "bench.lookups", process.target, process.token, name]
        other = await asyncio.create_subprocess_exec(*command)
        try:
            return [await _looked_up(table, case, count) for count in (1, 100)]
        finally:
            other.kill()
            await other.wait()


def _filled(points: str, uid: str) -> None:
    """Blocking. Until the derived table has all that was loaded: it is whole at first while there is nothing."""
    session = connect(Place(contact_points=tuple(points.split(","))))
    session.use("millrace")
    began = time.perf_counter()
    newest = max(n for (n,) in session.wait("SELECT n FROM commits WHERE uid = ? AND part = 0", uid))
    while not (
        (rows := session.wait("SELECT state FROM key_tables WHERE uid = ?", uid))
        and json.loads(rows[0][0])["through"] >= newest
    ):
        time.sleep(0.2)
    print(f"  filled after {time.perf_counter() - began:.0f} s", file=sys.stderr)
    session.cluster.shutdown()


async def _looked_up(table: Table, case: Case, count: int) -> dict[str, str]:
    dice = random.Random(count)

    async def once() -> float:
        """Milliseconds."""
        began = time.perf_counter()
        found = await table.lookup([dice.randrange(ROWS) for _ in range(count)])
        assert all(found.found)
        return (time.perf_counter() - began) * 1000

    await _warm(once)
    took: list[float] = []
    ends = time.perf_counter() + SECONDS
    while time.perf_counter() < ends:
        took.append(await once())
    cuts = statistics.quantiles(took, n=100)
    return {
        "store": case.name,
        "keys a call": str(count),
        "calls/s": f"{len(took) / SECONDS:,.0f}",
        "p50, ms": f"{cuts[49]:.1f}",
        "p99, ms": f"{cuts[98]:.1f}",
        "load": f"{os.getloadavg()[0]:.0f}",
    }


def main() -> None:
    lines: list[Mapping[str, str]] = []
    wanted = stores.chosen() if os.environ.get("BENCH_BACKENDS") else (*stores.chosen(), "memory")
    for store in dict.fromkeys(case.store for case in CASES if case.store in wanted):
        with (
            serving.home() as folder,
            _settings(store, folder) as place,
            serving.service("storage", folder, place) as process,
        ):
            for case in CASES:
                if case.store == store:
                    lines += asyncio.run(measure(process, case, place.get(POINTS, "")))
                    _write(lines)


def _write(lines: Sequence[Mapping[str, str]]) -> None:
    """As far as it has got."""
    print(f"  {lines[-2:]}", file=sys.stderr)
    assert __doc__
    machine = pairs.machine(["pyarrow", "deltalake", "grpcio"])
    pairs.write_section("Look-ups while appending", f"{__doc__}\n{machine}\n\n{pairs.table(lines)}")


async def _warm(once: Callable[[], Awaitable[float]]) -> None:
    """Until indices are in memory and a derived table is filled: as long as calls still get quicker."""
    gives_up, quickest = time.perf_counter() + LONGEST_WARM_S, [float("inf")] * 2
    while time.perf_counter() < gives_up:
        calls: list[float] = []
        until = time.perf_counter() + WARM_S
        while time.perf_counter() < until:
            with contextlib.suppress(errors.DeadlineTooShort, errors.StoreUnavailable):
                calls.append(await once())
        found = statistics.median(calls) if calls else float("inf")
        if calls and found > 0.8 * min(quickest):
            return
        quickest = [quickest[1], found]


@contextmanager
def _settings(store: str, folder: Path) -> Iterator[Mapping[str, str]]:
    if store == "memory":
        yield {"MILLRACE_STORAGE_BACKEND": "memory"}
        return
    with stores.STORES[store](folder) as place:
        yield place.settings


if __name__ == "__main__":
    if len(sys.argv) == 4:
        asyncio.run(append(*sys.argv[1:]))
    main()
