"""`make test`: every stage, each with its seconds; the last line sums up what the pytest stages ran.

Two stages run beside each other, the longest first, since most of them wait more than they compute (LANES=1: one after another). What
they say is printed stage by stage: that of the oldest one as it comes, that of the others when its turn comes.

A failed stage does not stop the next; its name is told at once. What the machine lacks (a test says so by `@pytest.mark.needs`) is
listed at the end, and with CI=true it fails the run, as any skipped test does. Arguments: names of stages, by commas or spaces; none is
all of them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
CHROMIUM = Path("/usr/bin/chromium")
CHECKS: dict[str, tuple[str, ...]] = {
    "format": ("ruff", "format", "--check", "."),
    "lint": ("ruff", "check", "."),
    "protos": ("buf", "lint"),
    "imports": ("lint-imports", "--no-cache"),
    "types": ("mypy",),
}
TESTS = ("codebase", "unit", "infra", "pulumi", "contract", "integration", "e2e", "browser", "chaos")
LONGEST_FIRST = (*CHECKS, "chaos", "integration", "contract", "e2e", "unit", "browser", "infra", "pulumi", "codebase")
FOLDERS = {"infra": ("infra/static",), "pulumi": ("infra/pulumi", "infra/policy")}
"""Where a stage's tests are, unless in the folder of its name: those in infra/real need an hour's builds (`make infra-test`)."""
ELSEWHERE = {
    "pulumi": (".venv-pulumi", ("-c", "pulumi/pytest.ini", "--rootdir", ".", "--confcutdir", "tests/infra/pulumi"))
}
"""Stages with a virtual environment of their own, which is made when it is missing, and what pytest is told there."""
STAGE_LIMIT_S = 1200
POLL_S = 0.2
NO_TESTS_COLLECTED = 5


@dataclass
class Outcome:
    """What one stage came to. A check that failed, or a pytest that died, counts as one failure: red never looks green."""

    stage: str
    seconds: float = 0.0
    passed: int = 0
    failed: int = 0
    skipped: list[str] = field(default_factory=list)
    """`test: reason`, one per skipped test."""
    note: str = ""

    def line(self) -> str:
        counts = (
            f"{self.passed} passed, {self.failed} failed, {len(self.skipped)} skipped" if self.stage in TESTS else ""
        )
        verdict = "FAILED" if self.failed else "ok" if self.stage in CHECKS or self.passed or self.skipped else "empty"
        return f"{self.stage:<12} {self.seconds:7.1f} s  {verdict:<6} {counts}{'  ' if counts and self.note else ''}{self.note}"


_running: set[subprocess.Popen[bytes]] = set()
_ending = threading.Event()


def run(command: list[str], output: IO[bytes], limit_s: float = STAGE_LIMIT_S) -> int:
    """The command's exit code; at its time limit the whole process group is killed and the code is 124."""
    if _ending.is_set():
        return 130
    process = subprocess.Popen(
        command, cwd=ROOT, start_new_session=True, stdin=subprocess.DEVNULL, stdout=output, stderr=output
    )
    _running.add(process)
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        output.write(f"no end after {limit_s:.0f} s: killed\n".encode())
        return 124
    finally:
        # Whatever a stage left running goes with it.
        _kill(process)
        process.wait()
        _running.discard(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def check(stage: str, output: IO[bytes]) -> Outcome:
    name, *arguments = CHECKS[stage]
    code = run([str(BIN / name), *arguments], output)
    return Outcome(stage, failed=int(code != 0), note=f"exit {code}" if code else "")


def tests(stage: str, output: IO[bytes]) -> Outcome:
    folders = [f"tests/{folder}" for folder in FOLDERS.get(stage, (stage,))]
    if not any(True for folder in folders for _ in (ROOT / folder).rglob("test_*.py")):
        return Outcome(stage, note="no tests yet")
    python: str = sys.executable
    told: tuple[str, ...] = ()
    if stage in ELSEWHERE:
        venv, told = ELSEWHERE[stage]
        python = str(ROOT / venv / "bin" / "python")
        if code := run([sys.executable, "tools/install.py", stage], output):
            return Outcome(stage, failed=1, note=f"its environment could not be made: exit {code}")
    color = "yes" if sys.stdout.isatty() else "auto"
    with tempfile.TemporaryDirectory() as temporary:
        report = Path(temporary) / "report.xml"
        arguments = ["-q", f"--color={color}", f"--junitxml={report}", *told, *folders]
        code = run([python, "-m", "pytest", *arguments], output)
        finished = report.exists()  # pytest writes it last: without it the stage died, whatever its exit code says
        outcome = counted(stage, report) if finished else Outcome(stage)
    if code == NO_TESTS_COLLECTED:
        outcome.note = "files, but no tests in them"
    elif code:
        outcome.note = f"pytest exit {code}"
    elif not finished:
        outcome.note = "pytest died"
    if (code or not finished) and not outcome.failed:
        outcome.failed = 1
    return outcome


def counted(stage: str, report: Path) -> Outcome:
    """Counts pytest's JUnit report. An expected failure passed: it is strict, so it failed as it had to."""
    outcome = Outcome(stage)
    for case in ElementTree.parse(report).iter("testcase"):
        skip = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            outcome.failed += 1
        elif skip is not None and skip.get("type") != "pytest.xfail":
            outcome.skipped.append(f"{case.get('classname')}::{case.get('name')}: {skip.get('message')}")
        else:
            outcome.passed += 1
    return outcome


@dataclass(frozen=True)
class Brought:
    """What a stage needs and Debian has. `there`: is it here already?"""

    name: str
    there: Callable[[], bool]
    packages: tuple[str, ...]
    instead: str = ""
    """What else a person may do."""


BROUGHT = {
    "integration": Brought(
        "Java 17 and Maven (Cassandra)",
        lambda: shutil.which("java") is not None and shutil.which("mvn") is not None,
        ("openjdk-17-jre-headless", "maven"),
    ),
    "browser": Brought(
        "chromium",
        lambda: CHROMIUM.exists() or bool(os.environ.get("MILLRACE_CHROMIUM")),
        ("chromium",),
        ", or name one in MILLRACE_CHROMIUM",
    ),
}


def bring(wanted: Brought) -> str:
    """Installs Debian's packages where they are missing and may be installed. What it says is for the list at the end."""
    if wanted.there():
        return ""
    packages = " ".join(wanted.packages)
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return f"{wanted.name}: install it (`apt-get install {packages}`){wanted.instead}"
    print(f"installing {packages}", flush=True)
    with tempfile.TemporaryFile("w+") as output:
        for command in (["update"], ["install", "-y", "--no-install-recommends", *wanted.packages]):
            environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            code = subprocess.run(
                ["apt-get", *command], stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=environment
            ).returncode
            if code:
                output.seek(0)
                return (
                    f"{wanted.name}: `apt-get {command[0]}` ended with {code}: {' '.join(output.read().split()[-30:])}"
                )
    return "" if wanted.there() else f"{wanted.name}: apt-get installed {packages}, yet it is not there"


def staged(stage: str, output: Path) -> Outcome:
    started = time.monotonic()
    with output.open("ab", buffering=0) as file:
        outcome = check(stage, file) if stage in CHECKS else tests(stage, file)
    outcome.seconds = time.monotonic() - started
    return outcome


def all_staged(stages: list[str], lacking: dict[str, str]) -> list[Outcome]:
    """Runs the stages in their lanes and prints what they say. `lacking`: what the machine has not, by stage."""
    lanes = min(len(stages), int(os.environ.get("LANES") or min(2, os.cpu_count() or 1)))
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(max(1, lanes)) as pool:
        said = {stage: Path(folder) / stage for stage in stages}
        for path in said.values():
            path.touch()
        order = sorted(stages, key=LONGEST_FIRST.index)
        running = {stage: pool.submit(staged, stage, said[stage]) for stage in order}
        told: set[str] = set()
        try:
            for stage in order:
                print(f"\n── {stage} " + "─" * (76 - len(stage)), flush=True)
                follow(said[stage], running[stage], lambda: tell_failures(running, told))
                outcome = running[stage].result()
                outcome.skipped += [lacking[stage]] if lacking.get(stage) else []
                told.add(stage)
                print(outcome.line(), flush=True)
        except BaseException:
            # Ctrl-C: nothing begins any more, and what runs goes.
            _ending.set()
            for process in list(_running):
                _kill(process)
            raise
        return [running[stage].result() for stage in stages]


def follow(path: Path, stage: Future[Outcome], tick: Callable[[], None]) -> None:
    """Prints what comes into the file until its stage has ended."""
    with path.open("rb") as file:
        ended = False
        while not ended:
            ended = stage.done()
            while part := file.read(65536):
                sys.stdout.buffer.write(part)
                sys.stdout.flush()
            tick()
            if not ended:
                with contextlib.suppress(TimeoutError):
                    stage.exception(POLL_S)


def tell_failures(running: dict[str, Future[Outcome]], told: set[str]) -> None:
    """Of stages whose output comes later."""
    for stage, future in running.items():
        if stage not in told and future.done() and future.result().failed:
            told.add(stage)
            print(f"\n!! {stage} FAILED: what it said comes below", flush=True)


def chosen(arguments: list[str]) -> list[str]:
    every = [*CHECKS, *TESTS]
    names = [name for argument in arguments for name in argument.split(",") if name]
    if unknown := set(names) - set(every):
        sys.exit(f"error: no stage {', '.join(sorted(unknown))}; there are {', '.join(every)}")
    return [stage for stage in every if not names or stage in names]


def main(arguments: list[str]) -> int:
    stages, began = chosen(arguments), time.monotonic()
    # One after another: apt-get has one lock.
    lacking = {stage: bring(BROUGHT[stage]) for stage in stages if stage in BROUGHT}
    outcomes = all_staged(stages, lacking)
    skipped = [line for outcome in outcomes for line in outcome.skipped]
    failed = sum(outcome.failed for outcome in outcomes)
    strict = os.environ.get("CI") == "true"
    print("\n── stages " + "─" * 70)
    print("\n".join(outcome.line() for outcome in outcomes))
    print(f"{'all':<12} {time.monotonic() - began:7.1f} s")
    if skipped:
        print(
            f"\n!! NOT TESTED HERE ({'with CI=true this fails the run' if strict else 'with CI=true this would fail'}):"
        )
        print("\n".join(f"!!   {line}" for line in skipped))
    if red := [outcome.stage for outcome in outcomes if outcome.failed]:
        print("\nFAILED: " + ", ".join(red))
    print(f"\n{sum(outcome.passed for outcome in outcomes)} passed, {failed} failed, {len(skipped)} skipped")
    return int(bool(failed or (strict and skipped)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
