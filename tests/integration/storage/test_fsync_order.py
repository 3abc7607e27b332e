"""What the kernel sees before an acknowledgement leaves: Parquet and its folder fsynced, then N.json and `_delta_log`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CALL = re.compile(r"(?:fsync|fdatasync)\(\d+<(?P<path>[^>]+)>\)\s+= 0|write\(1<[^>]*>, \"(?P<said>opened|ack|done)")
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


@pytest.mark.needs("strace")
def test_everything_is_on_the_disk_before_the_acknowledgement(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-y", "-qq", "-e", "trace=fsync,fdatasync,write", "-o", str(trace)]
    child = [sys.executable, "-m", "tests.chaos.storage_child", str(tmp_path / "data"), "200"]
    said = subprocess.run([*command, *child], cwd=ROOT, capture_output=True, text=True, timeout=110, check=True).stdout
    assert "ack 200" in said
    seen = events(trace)
    acks = [place for place, event in enumerate(seen) if event == "ack"]
    assert acks
    for ack in acks:
        log = max(place for place in range(ack) if COMMIT.search(seen[place]))
        table = str(Path(seen[log]).parents[1])
        parquet = max(place for place in range(log) if seen[place].endswith(".parquet") and "/l" in seen[place])
        assert table in seen[parquet:log], "the file's folder, before the commit"
        assert f"{table}/_delta_log" in seen[log:ack], "the log's folder, before the acknowledgement"
