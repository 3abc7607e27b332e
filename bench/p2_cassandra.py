"""P2 on Cassandra: AppendRows until committed, one node with `commitlog_sync: batch`, the node and the service on one machine.

Over gRPC: one producer whose commits follow each other tells the latency; eight producers on one table, each waiting for every batch of its
own, tell what the table's one committer makes of them. Batches that come together share a commit: one that is due waits up to half a commit
for producers that were answered just now. The aims: p50 below 10 ms; 500 batches/s, p99 below 100 ms, no producer below half the mean.
Node and service are warmed by two and a half minutes of the same work (Java compiles meanwhile).

What limits it: round trips one after another, each with a sync of the commit log: the file (its note and its bytes side by side), then the
log's entry by a lightweight transaction, which syncs three times (promise, proposal, commit). Of eight producers the CPU: node, service and
producers share the cores, so what a batch costs each of them is given beside the rates.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from bench import pairs, serving, stores
from bench.p2_append import SCHEMA, batch
from millrace.client.append import Appender, AppendOptions
from millrace.client.channel import Connection, call, open_channel
from millrace.storage.v1 import storage_pb2, storage_pb2_grpc
from millrace.wire.schema import schema_to_proto


@dataclass(frozen=True, slots=True)
class Case:
    """`producers` at once, each `batches` batches of `rows` rows, every one flushed and waited for."""

    name: str
    producers: int
    rows: int
    batches: int


CASES = (
    Case("1,000-row commits, one after another", 1, 1_000, 1_000),
    Case("8 producers, 100-row batches", 8, 100, 1_000),
    Case("8 producers, 1,000-row batches", 8, 1_000, 500),
)
WARM = (Case("warming: one producer", 1, 1_000, 200), Case("warming: eight", 8, 100, 150))
WARM_S = 150.0


async def new_table(connection: Connection) -> str:
    name = f"namespaces/default/tables/t{uuid.uuid4().hex[:10]}"
    stub = storage_pb2_grpc.StorageServiceStub(connection.channel)
    made = storage_pb2.Table(name=name, schema=schema_to_proto(SCHEMA))
    request = storage_pb2.CreateTableRequest(request_id=uuid.uuid4().hex, table=made)
    await call(connection, stub.CreateTable, request, answer=storage_pb2.CreateTableResponse)
    return name


async def _produce(connection: Connection, table: str, number: int, case: Case, ready: asyncio.Barrier) -> list[float]:
    """Milliseconds until each batch was acknowledged. Begins once all producers are open."""
    latencies = []
    batches = [batch(case.rows, n * case.rows) for n in range(8)]
    async with Appender(connection, AppendOptions(table=table, writer_id=f"p{number}")) as writer:
        await ready.wait()
        for n in range(case.batches):
            began = time.perf_counter()
            await writer.append(batches[n % 8])
            await writer.flush()
            latencies.append((time.perf_counter() - began) * 1000)
    return latencies


async def measure(process: serving.Process, case: Case) -> dict[str, str]:
    connection = Connection(open_channel(process.target), token=lambda: process.token)
    table = await new_table(connection)
    ready = asyncio.Barrier(case.producers + 1)
    tasks = [asyncio.create_task(_produce(connection, table, number, case, ready)) for number in range(case.producers)]
    await ready.wait()
    began, used_s = time.perf_counter(), _used_s()
    found = await asyncio.gather(*tasks)
    took, used_s = time.perf_counter() - began, _used_s() - used_s
    await connection.channel.close()
    latencies = [one for some in found for one in some]
    cuts = statistics.quantiles(latencies, n=100)
    rates = [case.batches / (sum(some) / 1000) for some in found]
    return {
        "case": case.name,
        "batches/s": f"{len(latencies) / took:,.0f}",
        "rows/s": f"{len(latencies) * case.rows / took:,.0f}",
        "p50, ms": f"{cuts[49]:.1f}",
        "p99, ms": f"{cuts[98]:.1f}",
        "slowest producer ÷ mean": f"{min(rates) / statistics.mean(rates):.2f}",
        "CPU of all, ms/batch": f"{used_s / len(latencies) * 1000:.1f}",
        "load": f"{os.getloadavg()[0]:.0f}",
    }


def _used_s() -> float:
    """CPU of this process and of those that it started: the node and the service."""
    ticks = 0
    children = {str(os.getpid())}
    for stat in sorted(Path("/proc").glob("[0-9]*/stat"), key=lambda path: int(path.parent.name)):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if stat.parent.name in children or fields[1] in children:
            children.add(stat.parent.name)
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _warm(process: serving.Process) -> None:
    """For all of WARM_S: latencies stand still for a while, and fall again when Java has compiled the next part."""
    until = time.monotonic() + WARM_S
    while time.monotonic() < until:
        found = [asyncio.run(measure(process, case))["p50, ms"] for case in WARM]
        print(f"  warming: p50 {' and '.join(map(str, found))} ms", file=sys.stderr)


def main() -> None:
    rows = []
    print("  starting a node and a service", file=sys.stderr)
    with (
        serving.home() as folder,
        stores.STORES["cassandra"](folder) as place,
        serving.service("storage", folder, place.settings) as process,
    ):
        _warm(process)
        for case in CASES:
            rows.append(asyncio.run(measure(process, case)))
            print(f"  {rows[-1]}", file=sys.stderr)
    assert __doc__
    body = f"{__doc__.split(chr(10), 1)[1].strip()}\n\n{pairs.machine(['cassandra-driver', 'pyarrow', 'grpcio'])}\n\n{pairs.table(rows)}"
    pairs.write_section("P2 on Cassandra", body)


if __name__ == "__main__":
    main()
