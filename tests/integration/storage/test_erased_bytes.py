"""After an erasure's time, nothing in the store holds what was erased: not a file, not a bound in the log, not a plan, not a copy."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from svc_storage.adapters.s3.backend import S3Backend
from svc_storage.domain.definition import define
from svc_storage.domain.maintenance.compacting import compact_all
from svc_storage.domain.maintenance.erasing import Erasure
from svc_storage.domain.maintenance.lineage import Everywhere
from svc_storage.domain.maintenance.reporting import Heard
from svc_storage.domain.opened import OpenTable
from svc_storage.domain.reading.predicates import Compare, Op
from svc_storage.domain.writing.appending import Incoming
from svc_storage.domain.writing.dead_letters import ClientDeadLetter
from tests.contract.storage.backends import BACKENDS, NAME, SCHEMA, Rig, rows
from tests.contract.storage.test_maintenance import Made, upkeep

MARK = "Zz-Winterbottom-7c9e"
DERIVED = NAME + "_copy"


@pytest.fixture(params=["local", "s3"])
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    pool = ThreadPoolExecutor(4)
    async with BACKENDS[request.param](tmp_path, pool) as backend:
        built = Rig(tmp_path, backend, pool)
        yield built
        await built.close()


async def fill(rig: Rig, name: str = NAME) -> OpenTable:
    """Twenty files, three with a marked row, whose mark is a bound of its file; a marked dead letter."""
    table = await rig.create(define(SCHEMA, event_time_column="at", primary_key=("status",)), name=name)
    stream = await rig.open(name=name, keep_bad=True)
    offset = 0
    for number in range(20):
        batch = rows(5, offset)
        if number in (3, 11, 19):
            texts = [*batch.column("status").to_pylist()[:4], MARK]
            batch = batch.set_column(3, SCHEMA.field("status"), pa.array(texts))
        raw = json.dumps({"id": "x", "status": MARK}).encode()
        letters = (ClientDeadLetter(0, "UNPARSEABLE", "id", raw),) if number == 5 else ()
        await stream.append(Incoming(offset=offset, rows=batch, crc32=number, size=batch.nbytes, dead=letters))
        await stream.settle()
        offset += 5 + len(letters)
        if number == 12:
            table.note_planned(table.head)
            await upkeep(rig).checkpoint(table)
    await stream.finish()
    return table


def holders(rig: Rig) -> list[str]:
    """What of all that is kept holds the mark, packed or not."""
    return sorted(name for name, content in _everything(rig) if _holds(content))


def _everything(rig: Rig) -> Iterator[tuple[str, bytes]]:
    for path in rig.folder.rglob("*"):
        if path.is_file():
            yield str(path.relative_to(rig.folder)), path.read_bytes()
    if isinstance(rig.backend, S3Backend):
        objects = rig.backend._objects
        for found in objects.list():
            yield found.key, objects.get(found.key)


def _holds(content: bytes) -> bool:
    if MARK.encode() in content:
        return True
    if not content.startswith(b"PAR1"):
        return False
    return MARK in str(pq.read_table(io.BytesIO(content)).to_pylist())


@pytest.mark.parametrize("compacted", [False, True])
async def test_no_byte_is_left(rig: Rig, compacted: bool) -> None:
    table, copy = await fill(rig), await fill(rig, DERIVED)
    list(table.files.batches(next(iter(table.versions.head.files.values())), SCHEMA))  # a copy in the cache
    if compacted:
        await compact_all(table, Heard(), rig.clock, run="c/")
    assert holders(rig)
    heard = Heard()
    what = Erasure(predicate=Compare("status", Op.EQ, MARK), run="e/", grace_us=60_000_000, collect_us=0)
    everywhere = Everywhere(rig.opened, Made(orders="orders_copy"), heard, rig.clock)
    await everywhere.erase(NAME, what, run="e", principal="tester")
    assert [(report.rows_erased, report.dead_letters_erased) for report in heard.reports] == [(3, 1), (3, 1)]
    rig.clock.ahead_us += max(report.gone_us for report in heard.reports) - rig.clock.now_us() + 1_000_000
    for one in (table, copy):
        await upkeep(rig).collect(one)
    assert holders(rig) == []
    assert sum(file.row_count for file in table.versions.head.files.values()) == 97
