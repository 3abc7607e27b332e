"""P2 on Cassandra: AppendRows until committed, one node with `commitlog_sync: batch`, the node and the service on one machine.

Commits one after another tell the latency; eight producers on one table, each waiting for every batch of its own, tell what the table's
one committer makes of them (its groups are what came while the commit before was under way).
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
import uuid
from dataclasses import dataclass

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
    Case("1,000-row commits, one after another", 1, 1_000, 300),
    Case("8 producers, 100-row batches", 8, 100, 400),
    Case("8 producers, 1,000-row batches", 8, 1_000, 200),
)


async def new_table(connection: Connection) -> str:
    name = f"namespaces/default/tables/t{uuid.uuid4().hex[:10]}"
    stub = storage_pb2_grpc.StorageServiceStub(connection.channel)
    made = storage_pb2.Table(name=name, schema=schema_to_proto(SCHEMA))
    request = storage_pb2.CreateTableRequest(request_id=uuid.uuid4().hex, table=made)
    await call(connection, stub.CreateTable, request, answer=storage_pb2.CreateTableResponse)
    return name


async def _produce(connection: Connection, table: str, number: int, case: Case, ready: asyncio.Event) -> list[float]:
    """Milliseconds until each batch was acknowledged."""
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
    ready = asyncio.Event()
    tasks = [asyncio.create_task(_produce(connection, table, number, case, ready)) for number in range(case.producers)]
    await asyncio.sleep(1.0)  # all are open
    ready.set()
    began = time.perf_counter()
    found = await asyncio.gather(*tasks)
    took = time.perf_counter() - began
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
    }


def main() -> None:
    rows = []
    with (
        serving.home() as folder,
        stores.STORES["cassandra"](folder) as place,
        serving.service("storage", folder, place.settings) as process,
    ):
        warm = Case("warm", 2, 100, 100)
        asyncio.run(measure(process, warm))
        for case in CASES:
            rows.append(asyncio.run(measure(process, case)))
            print(rows[-1], file=sys.stderr)
    assert __doc__
    body = f"{__doc__.split(chr(10), 1)[1].strip()}\n\n{pairs.machine(['cassandra-driver', 'pyarrow', 'grpcio'])}\n\n{pairs.table(rows)}"
    pairs.write_section("P2 on Cassandra", body)


if __name__ == "__main__":
    main()
