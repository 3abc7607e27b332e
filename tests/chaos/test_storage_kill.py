"""kill -9 at every durable step of storage, on every second kill a power loss: nothing acknowledged is lost, nothing is there twice.

Replay one: python -m pytest tests/chaos/test_storage_kill.py -k NAME --seed N
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

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


def run_child(data: Path, journal: Path, failpoints: str, *planted: str) -> tuple[int, list[str]]:
    """(return code, what it said). `planted`: the name of a bug to build in."""
    env = {**os.environ, "MILLRACE_FAILPOINTS": failpoints, "MILLRACE_FSYNC_JOURNAL": str(journal)}
    command = [sys.executable, "-m", "tests.chaos.storage_child", str(data), str(TARGET), *planted]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=100, check=False)
    if done.returncode not in (0, -signal.SIGKILL):
        raise AssertionError(f"the child failed:\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}")
    return done.returncode, done.stdout.splitlines()


def acknowledged(said: list[str]) -> int:
    return max((int(line.split()[1]) for line in said if line.startswith("ack ")), default=0)


def check(data: Path, said: list[str], story: str) -> None:
    """The finished table holds every number once, in Millrace's eyes and in those of any Delta reader."""
    assert said[-1] == "done", story
    (folder,) = [
        path for path in (data / "tables").iterdir() if (path / "_millrace" / "writers").exists() or _rows(path)
    ]
    numbers = _rows(folder)
    assert sorted(numbers) == list(range(TARGET)), story


def _rows(folder: Path) -> list[int]:
    table = DeltaTable(folder)
    return [
        number for uri in table.file_uris() for number in pq.read_table(uri, columns=["id"]).column("id").to_pylist()
    ]


@pytest.mark.parametrize("point", POINTS)
def test_kills_at(point: str, tmp_path: Path) -> None:
    episode(tmp_path, point, random.Random(f"{SEED} {point}"))


def episode(folder: Path, point: str, dice: random.Random, *planted: str) -> None:
    """Kills at one point a few times, every second time with a power loss, then lets it end, and counts."""
    data, journal = folder / "data", folder / "journal"
    acked, story = 0, [f"seed {SEED}, {point}"]
    for kill in range(KILLS):
        hit = dice.randint(1, 1 if point in ("storage.after_create_folder", "storage.before_fence") else 4)
        code, said = run_child(data, journal, f"{point}=kill:{hit}", *planted)
        story.append(f"kill {kill}: {point}=kill:{hit}, code {code}, {said[:1]}, acked {acknowledged(said)}")
        acked = max(check_opened(said, acked, story), acknowledged(said))
        if code == 0:
            break
        if kill % 2:
            story += lose_power(data, journal, dice)
    code, said = run_child(data, journal, "", *planted)
    assert code == 0
    check_opened(said, acked, story)
    check(data, said, "\n".join(story))


def check_opened(said: list[str], acked: int, story: list[str]) -> int:
    """The writer stands no lower than what was acknowledged, and its position is the one of its offset."""
    if not said or not said[0].startswith("opened "):
        return acked
    _, opened, position = said[0].split()
    assert int(opened) >= acked, "\n".join([f"{acked} acknowledged, {opened} found", *story])
    assert opened == position, "\n".join([f"position {position} at offset {opened}", *story])
    return int(opened)


@pytest.mark.parametrize("point", ["storage.before_commit", "storage.after_commit", "storage.after_commit_fsync"])
def test_an_answer_that_is_lost_is_read_again(point: str, tmp_path: Path) -> None:
    data, journal = tmp_path / "data", tmp_path / "journal"
    env = {**os.environ, "MILLRACE_FAILPOINTS": f"{point}=error:5"}
    command = [sys.executable, "-m", "tests.chaos.storage_child", str(data), "400"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=100, check=False)
    if point == "storage.before_commit":  # it did not happen: the writer is told, and opens again
        assert done.returncode != 0
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout.splitlines()[-1] == "done", done.stderr[-3000:]
    (folder,) = (data / "tables").iterdir()
    assert sorted(_rows(folder)) == list(range(400))
    assert not journal.exists()


@pytest.mark.parametrize(
    ("bug", "point"),
    [
        ("ack_before_commit", "storage.before_commit"),
        ("no_log_fsync", "storage.before_ack"),
        ("position_outside", "storage.before_ack"),
    ],
)
def test_a_planted_bug_is_caught(bug: str, point: str, tmp_path: Path) -> None:
    def episodes() -> None:
        for number in range(4):
            folder = tmp_path / str(number)
            folder.mkdir()
            episode(folder, point, random.Random(f"{SEED} {bug} {number}"), bug)

    with pytest.raises(AssertionError):
        episodes()


@pytest.mark.parametrize(("planted", "code"), [((), 0), (("no_epoch_check",), 1)])
def test_a_stopped_writer_that_wakes_up_is_refused(planted: tuple[str, ...], code: int, tmp_path: Path) -> None:
    """What it still sends after another took over would stand where the other's rows belong."""
    command = [sys.executable, "-m", "tests.chaos.storage_zombie", str(tmp_path), *planted]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stderr[-3000:]
