"""kill -9 at every durable step of storage, on every second kill a power loss: nothing acknowledged is lost, nothing is there twice.

Replay one: python -m pytest tests/chaos/test_storage_kill.py -k NAME --seed N
"""

from __future__ import annotations

import os
import random
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from tests.chaos.nursery import Nursery
from tests.chaos.power import lose_power

POINTS = (
    "storage.after_create_folder",
    "storage.before_fence",
    "storage.after_parquet_write",
    "storage.after_parquet_fsync",
    "storage.before_commit",
    "storage.after_commit",
    "storage.after_commit_fsync",
    "storage.before_publish",
    "storage.before_ack",
    "storage.before_compact_commit",
    "storage.after_writers_record",
    "storage.after_checkpoint_write",
    "storage.after_checkpoint_fsync",
    "storage.during_trim",
)
SEED = 20_261_124
KILLS = 2
TARGET = 600


@dataclass(frozen=True, slots=True)
class Children:
    """Starts storages on one data folder; `planted`: the name of a bug to build in."""

    child: ClassVar[str] = "tests.chaos.storage_child"
    nursery: Nursery
    folder: Path
    planted: tuple[str, ...] = ()

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def journal(self) -> Path:
        return self.folder / "journal"

    def run(self, failpoints: str, target: int = TARGET) -> tuple[int, list[str], str]:
        """(return code, what it said, its errors)."""
        env = {**os.environ, "MILLRACE_FAILPOINTS": failpoints, "MILLRACE_FSYNC_JOURNAL": str(self.journal)}
        arguments = [str(self.data), str(target), *self.planted]
        code, said, wrong = self.nursery.run(self.child, arguments, env, self.folder)
        return code, said.splitlines(), wrong

    def killed_or_done(self, failpoints: str) -> tuple[int, list[str]]:
        code, said, wrong = self.run(failpoints)
        if code not in (0, -signal.SIGKILL):
            raise AssertionError(f"the child failed:\n{said[-50:]}\n{wrong[-6000:]}")
        return code, said

    def check(self, said: list[str], story: str) -> None:
        """The finished table holds every number once, in Millrace's eyes and in those of any Delta reader."""
        assert said[-1] == "done", story
        (folder,) = [
            path
            for path in (self.data / "tables").iterdir()
            if (path / "_millrace" / "writers").exists() or _rows(path)
        ]
        numbers = _rows(folder)
        assert sorted(numbers) == list(range(TARGET)), story


def acknowledged(said: list[str]) -> int:
    return max((int(line.split()[1]) for line in said if line.startswith("ack ")), default=0)


def _rows(folder: Path) -> list[int]:
    table = DeltaTable(folder)
    return [
        number for uri in table.file_uris() for number in pq.read_table(uri, columns=["id"]).column("id").to_pylist()
    ]


@pytest.mark.parametrize("point", POINTS)
def test_kills_at(point: str, tmp_path: Path, nursery: Nursery) -> None:
    episode(Children(nursery, tmp_path), point, random.Random(f"{SEED} {point}"))


def episode(children: Children, point: str, dice: random.Random) -> None:
    """Kills at one point a few times, every second time with a power loss, then lets it end, and counts."""
    acked, story = 0, [f"seed {SEED}, {point}"]
    for kill in range(KILLS):
        hit = dice.randint(1, 1 if point in ("storage.after_create_folder", "storage.before_fence") else 4)
        code, said = children.killed_or_done(f"{point}=kill:{hit}")
        story.append(f"kill {kill}: {point}=kill:{hit}, code {code}, {said[:1]}, acked {acknowledged(said)}")
        acked = max(check_opened(said, acked, story), acknowledged(said))
        if code == 0:
            break
        if kill % 2:
            story += lose_power(children.data, children.journal, dice)
    code, said = children.killed_or_done("")
    assert code == 0
    check_opened(said, acked, story)
    children.check(said, "\n".join(story))


def check_opened(said: list[str], acked: int, story: list[str]) -> int:
    """The writer stands no lower than what was acknowledged, and its position is the one of its offset."""
    if not said or not said[0].startswith("opened "):
        return acked
    _, opened, position = said[0].split()
    assert int(opened) >= acked, "\n".join([f"{acked} acknowledged, {opened} found", *story])
    assert opened == position, "\n".join([f"position {position} at offset {opened}", *story])
    return int(opened)


@pytest.mark.parametrize("point", ["storage.before_commit", "storage.after_commit", "storage.after_commit_fsync"])
def test_an_answer_that_is_lost_is_read_again(point: str, tmp_path: Path, nursery: Nursery) -> None:
    children = Children(nursery, tmp_path)
    code, said, wrong = children.run(f"{point}=error:5", 400)
    if point == "storage.before_commit":  # it did not happen: the writer is told, and opens again
        assert code != 0
        code, said, wrong = children.run("", 400)
    assert said[-1] == "done", wrong[-3000:]
    (folder,) = (children.data / "tables").iterdir()
    assert sorted(_rows(folder)) == list(range(400))


@pytest.mark.parametrize(
    ("bug", "point"),
    [
        ("ack_before_commit", "storage.before_commit"),
        ("no_log_fsync", "storage.before_ack"),
        ("position_outside", "storage.before_ack"),
    ],
)
def test_a_planted_bug_is_caught(bug: str, point: str, tmp_path: Path, nursery: Nursery) -> None:
    def episodes() -> None:
        for number in range(4):
            folder = tmp_path / str(number)
            folder.mkdir()
            episode(Children(nursery, folder, (bug,)), point, random.Random(f"{SEED} {bug} {number}"))

    with pytest.raises(AssertionError):
        episodes()


@pytest.mark.parametrize(("planted", "code"), [((), 0), (("no_epoch_check",), 1)])
def test_a_stopped_writer_that_wakes_up_is_refused(
    planted: tuple[str, ...], code: int, tmp_path: Path, nursery: Nursery
) -> None:
    """What it still sends after another took over would stand where the other's rows belong."""
    found, _, wrong = nursery.run("tests.chaos.storage_zombie", [str(tmp_path), *planted], os.environ, tmp_path)
    assert found == code, wrong[-3000:]
