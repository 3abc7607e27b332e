"""Files of a bucket that are too large for the cache go up in parts and are read by ranges; signed addresses open for anybody."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from svc_storage.adapters.s3.cache import FileCache
from svc_storage.adapters.s3.files import URL_SECONDS, S3Files
from svc_storage.adapters.s3.objects import PART_BYTES
from tests.contract.storage.backends import SCHEMA, rows
from tests.servers.weed import objects, shared_weed

WIDE = pa.schema([pa.field("id", pa.int64()), pa.field("a", pa.float64()), pa.field("b", pa.float64())])
ROWS = 1_500_000


@pytest.fixture
async def files(tmp_path: Path) -> AsyncIterator[S3Files]:
    cache = FileCache.claim(tmp_path / "cache", 8 << 20)
    with ThreadPoolExecutor(4) as pool:
        yield S3Files(objects(shared_weed()), cache, pool)
    cache.close()


async def test_a_large_file_comes_back_by_ranges(files: S3Files, tmp_path: Path) -> None:
    dice = np.random.default_rng(1)
    a, b = dice.random(ROWS), dice.random(ROWS)
    batch = pa.record_batch([np.arange(ROWS), a, b], schema=WIDE)
    written = await files.write("l1-large.parquet", [batch], WIDE)
    assert written.size_bytes > PART_BYTES
    narrow = pa.schema([WIDE.field("b")])
    found = [(row, part.column(0).to_numpy()) for row, part in files.batches(written, narrow, 700_001, 900_003)]
    assert found[0][0] == 700_001
    assert np.array_equal(np.concatenate([part for _, part in found]), b[700_001:900_003])
    assert sum(part.num_rows for _, part in files.batches(written, WIDE)) == ROWS
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size > 1 << 20]


async def test_a_signed_address_opens_for_anybody_for_a_while(files: S3Files, tmp_path: Path) -> None:
    written = await files.write("l0-ä b.parquet", [rows(50)], SCHEMA)
    (found,) = await files.urls([written.path])
    await asyncio.to_thread(urllib.request.urlretrieve, found.url, tmp_path / "fetched")
    assert pq.read_table(tmp_path / "fetched").num_rows == 50
    assert found.expire_us is not None
    assert 0 < found.expire_us / 1e6 - time.time() <= URL_SECONDS


async def test_a_small_file_is_read_from_the_copy_that_was_written(files: S3Files) -> None:
    written = await files.write("l0-a.parquet", [rows(50)], SCHEMA)
    assert sum(part.num_rows for _, part in files.batches(written, SCHEMA)) == 50
    assert (files._cache.hits, files._cache.misses) == (1, 0)
