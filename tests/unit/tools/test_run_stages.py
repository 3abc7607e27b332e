"""The stage runner never hides a failure: planted stages of every kind, run by the real script in a tree of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.codebase.tree import ROOT

STAGES = {
    "green": "def test_a(): pass\n",
    "red": "def test_a(): pass\ndef test_b(): assert False\n",
    "skipped": "import pytest\n@pytest.mark.skip(reason='needs a moon')\ndef test_a(): pass\n",
    "expected": "import pytest\n@pytest.mark.xfail(strict=True, reason='fixture')\ndef test_a(): assert False\n",
    "unexpected": "import pytest\n@pytest.mark.xfail(strict=True, reason='fixture')\ndef test_a(): pass\n",
    "in_set_up": "import pytest\n@pytest.fixture\ndef f(): raise OSError\ndef test_a(f): pass\n",
    "dies": "import os\nos._exit(0)\n",
    "does_not_parse": "def test_a(:\n",
    "holds_nothing": "x = 1\n",
}
MEETING = """
import pathlib, time
def test_a():
    pathlib.Path("{own}-is-here").touch()
    ends = time.monotonic() + 30
    while not pathlib.Path("{other}-is-here").exists():
        assert time.monotonic() < ends
        time.sleep(0.02)
def test_b():
    assert not "fails in {own}"
"""


def last_line(tmp_path: Path, source: str | None, *, ci: bool = False) -> tuple[int, str, str]:
    """Exit code, last line and all output of a run whose `unit` stage is this file (None: no file)."""
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "run_stages.py", tmp_path / "tools")
    if source is not None:
        (tmp_path / "tests" / "unit").mkdir(parents=True)
        (tmp_path / "tests" / "unit" / "test_planted.py").write_text(source)
    command = [sys.executable, "tools/run_stages.py", "unit"]
    environment = {**os.environ, "CI": "true" if ci else "false"}
    answer = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    return answer.returncode, answer.stdout.splitlines()[-1], answer.stdout


@pytest.mark.parametrize(
    ("kind", "code", "line"),
    [
        ("green", 0, "1 passed, 0 failed, 0 skipped"),
        ("red", 1, "1 passed, 1 failed, 0 skipped"),
        ("skipped", 0, "0 passed, 0 failed, 1 skipped"),
        ("expected", 0, "1 passed, 0 failed, 0 skipped"),
        ("unexpected", 1, "0 passed, 1 failed, 0 skipped"),
        ("in_set_up", 1, "0 passed, 1 failed, 0 skipped"),
        ("dies", 1, "0 passed, 1 failed, 0 skipped"),
        ("does_not_parse", 1, "0 passed, 1 failed, 0 skipped"),
        ("holds_nothing", 1, "0 passed, 1 failed, 0 skipped"),
    ],
)
def test_a_stage_is_summed_up(tmp_path: Path, kind: str, code: int, line: str) -> None:
    assert last_line(tmp_path, STAGES[kind])[:2] == (code, line)


def test_a_stage_without_tests_says_so(tmp_path: Path) -> None:
    code, line, output = last_line(tmp_path, None)
    assert (code, line) == (0, "0 passed, 0 failed, 0 skipped")
    assert "no tests yet" in output


def test_what_was_skipped_is_listed_and_fails_ci(tmp_path: Path) -> None:
    code, _, output = last_line(tmp_path, STAGES["skipped"], ci=True)
    assert code == 1
    assert "needs a moon" in output.partition("NOT TESTED HERE")[2]


def test_two_stages_at_a_time_speak_one_after_another_and_the_wait_is_shared(tmp_path: Path) -> None:
    """Each waits for a file of the other: alone, neither would end."""
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "run_stages.py", tmp_path / "tools")
    for own, other in (("unit", "e2e"), ("e2e", "unit")):
        (tmp_path / "tests" / own).mkdir(parents=True)
        (tmp_path / "tests" / own / "test_planted.py").write_text(MEETING.format(own=own, other=other))
    command = [sys.executable, "tools/run_stages.py", "unit,e2e"]
    answer = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "LANES": "2"}, capture_output=True, text=True, timeout=60
    )
    assert answer.returncode == 1
    assert answer.stdout.splitlines()[-1] == "2 passed, 2 failed, 0 skipped"
    assert answer.stdout.splitlines()[-3] == "FAILED: unit, e2e"
    assert answer.stdout.index("─ e2e") < answer.stdout.index("fails in e2e") < answer.stdout.index("─ unit")
    assert answer.stdout.index("─ unit") < answer.stdout.index("fails in unit")
