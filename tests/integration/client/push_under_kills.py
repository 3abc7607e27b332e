"""Pushes numbered rows into a storage process that is killed with -9 again and again; at the end every row is there once.

`python tests/integration/client/push_under_kills.py --rows 1000000 --seconds 120 --kills 20` prints what happened and exits 1 on loss.
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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from millrace.client import Client
from millrace.client.append import Appender, AppendOptions

TOKEN = "local-token"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class StorageProcess:
    """`python -m svc_storage` on a port and data folder of its own, which survive its kills."""

    def __init__(self, home: Path) -> None:
        self.port = free_port()
        self._home = home
        principals = {
            hashlib.sha256(TOKEN.encode()).hexdigest(): {"principal": "local", "roles": ["admin"], "kind": "person"},
            hashlib.sha256(b"storage-token").hexdigest(): {"principal": "storage", "roles": [], "kind": "service"},
        }
        (home / "principals.json").write_text(json.dumps(principals))
        (home / "token").write_text("storage-token")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        env = {
            **os.environ,
            "MILLRACE_HOME": str(self._home),
            "MILLRACE_STORAGE_PORT": str(self.port),
            "MILLRACE_STORAGE_DATA_DIR": str(self._home / "data"),
            "MILLRACE_TOKEN_FILE": str(self._home / "token"),
            "MILLRACE_PRINCIPALS_FILE": str(self._home / "principals.json"),
        }
        with (self._home / "storage.log").open("ab") as log:
            self._process = subprocess.Popen([sys.executable, "-m", "svc_storage"], env=env, stdout=log, stderr=log)

    async def ready(self, limit_s: float = 30.0) -> None:
        ends = time.monotonic() + limit_s
        async with Client.find(storage=self.target, token=TOKEN) as client:
            while True:
                try:
                    await client.list_tables()
                    return
                except Exception:
                    if time.monotonic() > ends:
                        raise
                    await asyncio.sleep(0.05)

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None


@dataclass
class Outcome:
    rows: int = 0
    distinct: int = 0
    kills: int = 0
    kills_with_unacknowledged_rows: int = 0
    reopened: int = 0
    duplicates_acknowledged: int = 0
    seconds: float = 0.0

    def good(self, rows: int) -> bool:
        return self.rows == self.distinct == rows


async def _kill_again_and_again(
    storage: StorageProcess, writer: Appender, kills: int, dice: random.Random, outcome: Outcome
) -> None:
    for _ in range(kills):
        await storage.ready()
        await asyncio.sleep(dice.uniform(1.0, 3.0))
        # Pacing leaves quiet moments; a kill while rows are under way is the one that counts.
        for _ in range(200):
            if writer.next_offset > writer.acked_offset:
                break
            await asyncio.sleep(0.005)
        outcome.kills_with_unacknowledged_rows += writer.next_offset > writer.acked_offset
        storage.kill()
        outcome.kills += 1
        storage.start()


async def push(storage: StorageProcess, *, rows: int, seconds: float, kills: int, seed: int) -> Outcome:
    """`rows` spread over at least `seconds`, `kills` kills, each 1 to 3 s after storage was ready."""
    outcome, dice, began = Outcome(), random.Random(seed), time.monotonic()
    storage.start()
    await storage.ready()
    async with Client.find(storage=storage.target, token=TOKEN) as client:
        table = await client.create_table("pushed", {"n": "int64", "text": "string"})
        options = AppendOptions(table=table.name, writer_id="pusher")
        async with Appender(client.connection("storage"), options) as writer:
            killing = asyncio.create_task(_kill_again_and_again(storage, writer, kills, dice, outcome))
            size, at = 500, 0
            while at < rows or not killing.done():
                if killing.done():
                    killing.result()
                if at < rows:
                    count = min(size, rows - at)
                    numbers = pa.array(range(at, at + count))
                    await writer.append(pa.record_batch({"n": numbers, "text": numbers.cast(pa.string())}))
                    at += count
                due = began + seconds * at / rows
                await asyncio.sleep(max(0.0, due - time.monotonic()) if at < rows else 0.05)
            totals = await writer.finish()
        outcome.reopened, outcome.duplicates_acknowledged = totals.reopened, totals.rows_duplicate
        found = await table.read(columns=["n"]).to_arrow()
    outcome.rows, outcome.distinct = found.num_rows, len(found.column("n").unique())
    outcome.seconds = round(time.monotonic() - began, 1)
    return outcome


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as home:
        storage = StorageProcess(Path(home))
        try:
            outcome = asyncio.run(
                push(storage, rows=given.rows, seconds=given.seconds, kills=given.kills, seed=given.seed)
            )
        except BaseException:
            print((Path(home) / "storage.log").read_text()[-4000:])
            raise
        finally:
            storage.kill()
    print(outcome)
    return 0 if outcome.good(given.rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
