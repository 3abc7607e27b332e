"""The client against a storage process that dies."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

from millrace import connect
from tests.integration.client.push_under_kills import TOKEN, StorageProcess, push


async def test_every_row_is_there_once_although_storage_is_killed(tmp_path: Path) -> None:
    storage = StorageProcess(tmp_path)
    try:
        outcome = await push(storage, rows=40_000, seconds=8, kills=3, seed=7)
    finally:
        storage.kill()
    assert outcome.good(40_000), outcome
    assert outcome.kills == 3
    assert outcome.reopened >= 3


def test_the_blocking_client_appends_across_a_restart_of_storage(tmp_path: Path) -> None:
    storage = StorageProcess(tmp_path)
    storage.start()
    try:
        asyncio.run(storage.ready())

        def restart() -> None:
            time.sleep(0.5)
            storage.kill()
            storage.start()

        with connect(storage=storage.target, token=TOKEN) as client:
            table = client.create_table("t", {"n": "int64"})
            restarting = threading.Thread(target=restart)
            restarting.start()
            with table.writer("w") as writer:
                for at in range(0, 20_000, 100):
                    writer.append({"n": range(at, at + 100)})
                    time.sleep(0.01)
            restarting.join()
            assert sorted(table.read().to_arrow().column("n").to_pylist()) == list(range(20_000))
            assert table.read(where=[("n", "<", 10)]).to_pandas()["n"].sum() == 45
            assert next(table.watch()).number == table.info().version
    finally:
        storage.kill()
