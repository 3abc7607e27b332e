"""kill -9 in the middle of an erasure and a compaction, on every second kill a power loss: the next life ends them, every row is there
once or gone."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from tests.chaos.maintenance_child import GONE, ROWS
from tests.chaos.nursery import Nursery
from tests.chaos.power import lose_power

POINTS = {
    "storage.before_swap": (1, 1),
    "storage.after_parquet_write": (21, 30),
    "storage.after_commit": (22, 1),
    "storage.before_publish": (22,),
    "storage.after_writers_record": (1,),
    "storage.during_trim": (1, 3),
    "storage.before_compact_commit": (1,),
    "storage.before_restore_commit": (1,),
}
SEED = 20_261_124


@pytest.mark.parametrize("point", POINTS)
def test_kills_at(point: str, tmp_path: Path, nursery: Nursery) -> None:
    dice, data, journal = random.Random(f"{SEED} {point}"), tmp_path / "data", tmp_path / "journal"
    story = [f"seed {SEED}, {point}"]
    for number, hit in enumerate(POINTS[point]):
        code, said = life(nursery, tmp_path, f"{point}=kill:{hit}")
        story.append(f"{point}=kill:{hit}, code {code}, {said}")
        if code == 0:
            assert number, f"nothing was killed: {story}"
            break
        if number % 2:
            story += lose_power(data, journal, dice)
    code, said = life(nursery, tmp_path, "")
    assert (code, said[-1]) == (0, "done"), story
    (folder,) = (data / "tables").iterdir()
    found = [
        number
        for uri in DeltaTable(folder).file_uris()
        for number in pq.read_table(uri, columns=["id"]).column("id").to_pylist()
    ]
    assert sorted(found) == [number for number in range(ROWS) if number not in GONE], story


def life(nursery: Nursery, folder: Path, failpoints: str) -> tuple[int, list[str]]:
    env = {**os.environ, "MILLRACE_FAILPOINTS": failpoints, "MILLRACE_FSYNC_JOURNAL": str(folder / "journal")}
    code, said, wrong = nursery.run("tests.chaos.maintenance_child", [str(folder / "data")], env, folder)
    assert code in (0, -signal.SIGKILL), f"the child failed:\n{said}\n{wrong[-6000:]}"
    return code, said.splitlines()
