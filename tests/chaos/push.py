"""A client pushes rows, paced, while the storage process is killed with -9 again and again: every row is there once afterwards.

python -m tests.chaos.push --rows 1000000 --seconds 120 --kills 20 --seed 1
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable

from millrace.client.append import Appender, AppendOptions
from millrace.client.channel import Connection, open_channel
from millrace.storage.v1 import storage_pb2, storage_pb2_grpc
from millrace.wire.schema import schema_to_proto
from tests.chaos.power import lose_power
from tests.contract.storage.backends import NAME, SCHEMA, rows

TOKEN = "push-token"
READY_LIMIT_S = 30.0


@dataclass
class Storage:
    """The real process on a port of its own, killed and started again."""

    home: Path
    power_loss: bool
    dice: random.Random
    port: int = 0
    kills: int = 0
    unacked_kills: int = 0
    lost: list[str] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        principals = {
            hashlib.sha256(TOKEN.encode()).hexdigest(): {"principal": "local", "roles": ["admin"], "kind": "person"}
        }
        (self.home / "principals.json").write_text(json.dumps(principals))

    def start(self) -> None:
        env = {
            **os.environ,
            "MILLRACE_HOME": str(self.home),
            "MILLRACE_STORAGE_PORT": str(self.port),
            "MILLRACE_PRINCIPALS_FILE": str(self.home / "principals.json"),
            "MILLRACE_FSYNC_JOURNAL": str(self.home / "journal"),
        }
        with (self.home / "storage.log").open("ab") as log:
            self.process = subprocess.Popen([sys.executable, "-m", "svc_storage"], env=env, stdout=log, stderr=log)

    async def ready(self, connection: Connection) -> None:
        stub: Any = storage_pb2_grpc.StorageServiceStub(connection.channel)
        until = time.monotonic() + READY_LIMIT_S
        while True:
            try:
                await stub.ListTables(storage_pb2.ListTablesRequest(), metadata=connection.metadata(), timeout=2)
                return
            except grpc.aio.AioRpcError as error:
                if self.process is None or self.process.poll() is not None or time.monotonic() > until:
                    raise AssertionError(f"storage does not answer:\n{self.last_words()}\n{self.lost[-20:]}") from error
                await asyncio.sleep(0.05)

    def last_words(self) -> str:
        return "\n".join((self.home / "storage.log").read_text().splitlines()[-5:])

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.kills += 1
        if self.power_loss and self.kills % 2 == 0:
            self.lost += lose_power(self.home / "data", self.home / "journal", self.dice)

    def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        self.process.wait(30)


async def push(count: int, seconds: float, kills: int, seed: int, *, power_loss: bool) -> dict[str, Any]:
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="millrace-push-") as folder:
        storage = Storage(Path(folder), power_loss, dice)
        storage.start()
        channel = open_channel(f"127.0.0.1:{storage.port}")
        connection = Connection(channel, lambda: TOKEN)
        await storage.ready(connection)
        table = storage_pb2.Table(name=NAME, schema=schema_to_proto(SCHEMA), event_time_column="at")
        stub: Any = storage_pb2_grpc.StorageServiceStub(channel)
        request = storage_pb2.CreateTableRequest(request_id="create", table=table)
        await stub.CreateTable(request, metadata=connection.metadata())
        writer = Appender(connection, AppendOptions(table=NAME, writer_id="pusher", tries=50))
        killing = asyncio.create_task(_kill(storage, connection, writer, kills, dice))
        started = time.monotonic()
        async with writer:
            sending = asyncio.create_task(_send(writer, count, seconds, dice))
            await asyncio.gather(killing, sending)
            totals = await writer.finish()
        took_s = time.monotonic() - started
        await channel.close()
        storage.stop()
        return {**_verdict(storage.home), "kills": storage.kills, "kills_unacked": storage.unacked_kills, "seconds": round(took_s, 1),
                "reopened": totals.reopened, "power_loss": Counter(line.split()[0] for line in storage.lost)}  # fmt: skip


async def _send(writer: Appender, count: int, seconds: float, dice: random.Random) -> None:
    started, sent = time.monotonic(), 0
    while sent < count:
        size = min(dice.randint(1, 2 * max(1, round(count / seconds / 20))), count - sent)
        await writer.append(rows(size, sent))
        sent += size
        if (early := started + sent * seconds / count - time.monotonic()) > 0:
            await asyncio.sleep(early)


async def _kill(storage: Storage, connection: Connection, writer: Appender, kills: int, dice: random.Random) -> None:
    for _ in range(kills):
        await storage.ready(connection)
        await asyncio.sleep(dice.uniform(1, 3))
        unacked = writer.next_offset > writer.acked_offset
        storage.kill()
        storage.unacked_kills += unacked
        storage.start()


def _verdict(home: Path) -> dict[str, Any]:
    (folder,) = (home / "data" / "tables").iterdir()
    found = pa.chunked_array(
        [
            chunk
            for uri in DeltaTable(folder).file_uris()
            for chunk in pq.read_table(uri, columns=["id"]).column("id").chunks
        ],
        pa.int64(),
    )
    bounds = pc.min_max(found).as_py()
    return {"count": len(found), "distinct": pc.count_distinct(found).as_py(), "lowest": bounds["min"], "highest": bounds["max"],
            "versions": DeltaTable(folder).version()}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--power-loss", action="store_true")
    asked = parser.parse_args()
    found = asyncio.run(push(asked.rows, asked.seconds, asked.kills, asked.seed, power_loss=asked.power_loss))
    print(json.dumps(found))
    return 0 if found["count"] == found["distinct"] == asked.rows else 1


if __name__ == "__main__":
    raise SystemExit(main())
