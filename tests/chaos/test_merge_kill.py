"""kill -9 at every durable step of a merge, power losses between: the table is what all rows of the writer make it, each counted once."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from tests.chaos.merge_child import expected
from tests.chaos.nursery import Nursery
from tests.chaos.test_storage_kill import SEED, TARGET, Children, episode

POINTS = (
    "storage.before_merge_rewrite",
    "storage.after_parquet_fsync",
    "storage.before_commit",
    "storage.after_commit",
    "storage.before_ack",
    "storage.before_swap",
)


class Merging(Children):
    child = "tests.chaos.merge_child"

    def check(self, said: list[str], story: str) -> None:
        assert said[-1] == "done", story
        (folder,) = (self.data / "tables").iterdir()
        found = [
            row
            for uri in DeltaTable(folder).file_uris()
            for row in pq.read_table(uri, columns=["id", "name"]).to_pylist()
        ]
        assert len({row["id"] for row in found}) == len(found), story
        assert {row["id"]: row["name"] for row in found} == expected(TARGET), story


@pytest.mark.parametrize("point", POINTS)
def test_kills_at(point: str, tmp_path: Path, nursery: Nursery) -> None:
    episode(Merging(nursery, tmp_path), point, random.Random(f"{SEED} merge {point}"))
