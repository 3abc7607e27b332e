"""Gzip read at places: what a plain file would give, each byte unpacked once while reads move forward."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from svc_extract.adapters.connectors.files.packed import PackedFile

DATA = random.Random(1).randbytes(50_000) * 60


@given(st.lists(st.tuples(st.integers(0, len(DATA) + 10), st.integers(0, 400_000)), max_size=8))
def test_reads_at_any_place(tmp_path_factory: object, reads: list[tuple[int, int]]) -> None:
    path = Path(tmp_path_factory.getbasetemp()) / "packed.gz"  # type: ignore[attr-defined]
    if not path.exists():
        path.write_bytes(gzip.compress(DATA, 1))
    file = PackedFile(path)
    for offset, size in reads:
        assert file.read_at(offset, size) == DATA[offset : offset + size]
    file.close()
