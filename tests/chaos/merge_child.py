"""As storage_child, but the table is merged into: a script of upserts and deletes that depends on nothing but the offset.

python -m tests.chaos.merge_child FOLDER TARGET
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Mapping
from pathlib import Path

from svc_storage.domain.writing.appending import Incoming, OpenRequest
from tests.chaos.storage_child import feed, start
from tests.contract.storage.test_merging import Line, changes, defined, gone, up

KEYS = 150


def line(number: int) -> Line:
    """What row `number` of the writer does."""
    dice = random.Random(number)
    key = dice.randrange(KEYS)
    return gone(key, number) if dice.random() < 0.3 else up(key, str(number), number)


def expected(target: int) -> dict[int, str]:
    """The table after the first `target` rows: name by id."""
    rows: dict[int, str] = {}
    for op, key, name, _ in map(line, range(target)):
        rows.pop(key, None)
        if op == "UPSERT":
            rows[key] = str(name)
    return rows


def incoming(offset: int, rows: int, positions: Mapping[str, str]) -> Incoming:
    batch = changes([line(number) for number in range(offset, offset + rows)], defined())
    return Incoming(offset=offset, rows=batch, crc32=offset, size=batch.nbytes, positions=positions)


async def work(folder: Path, target: int) -> None:
    storage = await start(folder, defined())
    request = OpenRequest(writer="w", epoch=0, principal="tester", op_column="op")
    await feed(storage, request, target, incoming)


if __name__ == "__main__":
    asyncio.run(work(Path(sys.argv[1]), int(sys.argv[2])))
