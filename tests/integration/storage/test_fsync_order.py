"""What the kernel sees before an acknowledgement leaves: Parquet and its folder fsynced, then N.json and `_delta_log`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CALL = re.compile(r"(?:fsync|fdatasync)\(\d+<(?P<path>[^>]+)>\)\s+= 0|write\(1<[^>]*>, \"(?P<said>opened|ack|done)")
DATA = re.compile(r"/l\d-[^/]*\.parquet$")
COMMIT = re.compile(r"_delta_log/\d{20}\.json$")


def events(trace: Path) -> list[str]:
    """Paths that were fsynced and words that were said, in order. A call that another thread interrupts counts when it ends."""
    found, begun = [], {}
    for line in trace.read_text().splitlines():
        thread, _, text = line.partition(" ")
        text = text.strip()
        if text.endswith("<unfinished ...>"):
            begun[thread] = text.removesuffix("<unfinished ...>").rstrip()
            continue
        if text.startswith("<... "):
            text = begun.pop(thread, "") + text.partition("resumed>")[2]
        if call := CALL.match(text):
            found.append(call["path"] or call["said"])
    return found


def traced(folder: Path, *planted: str) -> list[str]:
    trace = folder / "trace"
    command = ["strace", "-f", "-y", "-qq", "-e", "trace=fsync,fdatasync,write", "-o", str(trace)]
    child = [sys.executable, "-m", "tests.chaos.storage_child", str(folder / "data"), "200", *planted]
    said = subprocess.run([*command, *child], cwd=ROOT, capture_output=True, text=True, timeout=110, check=True).stdout
    assert "ack 200" in said
    return events(trace)


def missing(seen: list[str]) -> list[str]:
    """What was not on the disk when an acknowledgement left."""
    found = []
    acks = [place for place, event in enumerate(seen) if event == "ack"]
    assert acks
    for ack in acks:
        log = max((place for place in range(ack) if COMMIT.search(seen[place])), default=0)
        table = str(Path(seen[log]).parents[1])
        parquet = max((place for place in range(log) if DATA.search(seen[place])), default=0)
        if not COMMIT.search(seen[log]) or f"{table}/_delta_log" not in seen[log:ack]:
            found.append("the commit, or its folder")
        if not DATA.search(seen[parquet]) or table not in seen[parquet:log]:
            found.append("the file, or its folder, before the commit")
    return found


@pytest.mark.needs("strace")
def test_everything_is_on_the_disk_before_the_acknowledgement(tmp_path: Path) -> None:
    assert not missing(traced(tmp_path))


@pytest.mark.needs("strace")
def test_a_missing_fsync_is_seen(tmp_path: Path) -> None:
    assert missing(traced(tmp_path, "no_log_fsync"))
