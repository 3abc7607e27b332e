"""`make test-storage BACKEND=…`: storage's contract suite on one store, then the counts, and what that store declares it cannot do.

A gap is a test that skips itself because a capability of the store says so, or one that must fail there (`@pytest.mark.expected`).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BACKENDS = ("memory", "local", "s3", "cassandra", "cassandra3")
SUITE = "tests/contract/storage"


def main(arguments: list[str]) -> int:
    names = [name for argument in arguments for name in argument.split(",") if name] or ["memory", "local", "s3"]
    if unknown := set(names) - set(BACKENDS):
        sys.exit(f"error: no backend {', '.join(sorted(unknown))}; there are {', '.join(BACKENDS)}")
    failed = [name for name in names if not passes(name)]
    return int(bool(failed))


def passes(backend: str) -> bool:
    """Runs the suite on one store and prints what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", SUITE]
        code = subprocess.run(command, cwd=ROOT, env={**os.environ, "TEST_BACKENDS": backend}).returncode
        if not report.exists():
            print(f"{backend}: pytest died with {code}")
            return False
        counts, gaps = read(report)
    told = ", ".join(f"{counts[kind]} {kind}" for kind in ("passed", "failed", "skipped"))
    print(f"\n{backend}: {told}")
    print("\n".join(f"  gap: {gap}" for gap in gaps) or "  gaps: none declared")
    return code == 0 and counts["passed"] > 0


def read(report: Path) -> tuple[Counter[str], list[str]]:
    """(counts, one line per gap) of pytest's JUnit report."""
    counts: Counter[str] = Counter()
    gaps: Counter[str] = Counter()
    for case in ElementTree.parse(report).iter("testcase"):
        skip = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            counts["failed"] += 1
        elif skip is not None and skip.get("type") != "pytest.xfail":
            counts["skipped"] += 1
            gaps[skip.get("message") or "no reason given"] += 1
        else:
            counts["passed"] += 1
            if skip is not None:
                gaps[f"{case.get('name')}: {skip.get('message')}"] += 1
    return counts, [f"{reason} ({count})" if count > 1 else reason for reason, count in gaps.items()]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
