"""The demo as a visitor gets it, and its counts against a plain DuckDB script over the same files."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.e2e.stack import ROOT, Stack, started, until

FLIGHTS = ROOT / "examples" / "flights"
PLANTED = 200
REAL = 179
"""Times of 2400: examples/flights/README.md."""
WHOLE_YEAR = "live_from: 2014-01-02T00:00:00-05:00"


def script(name: str) -> ModuleType:
    """A module of the example, which is no package."""
    spec = importlib.util.spec_from_file_location(name, FLIGHTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, str]]:
    """`millrace up --detach` with the demo, and what it printed."""
    home = tmp_path_factory.mktemp("demo")
    with started(home, timeout_s=300) as stack:
        yield stack, stack.process("up").err


@pytest.mark.timeout(320)
def test_up_lays_the_demo_out_and_it_goes_on_live(demo: tuple[Stack, str]) -> None:
    stack, again = demo
    assert "already running" in again
    status = json.loads(stack.ok("status", "-o", "json").out)
    assert status["problems"] == []
    before = stack.one("SELECT count(*) FROM departures")
    assert before > 170_000
    until(lambda: stack.one("SELECT count(*) FROM departures") > before, limit_s=60, what="a live departure")
    assert stack.one("SELECT count(*) FROM departures WHERE airline IS NULL") == 0


def test_a_restart_leaves_the_demo_as_it_was(demo: tuple[Stack, str]) -> None:
    stack, _ = demo
    said = stack.ok("apply", str(FLIGHTS))
    assert {line.split()[2] for line in said.out.splitlines()} == {"unchanged"}, said.out


def test_what_get_prints_of_the_whole_pipeline_is_what_was_applied(demo: tuple[Stack, str]) -> None:
    stack, _ = demo
    printed = stack.ok("get", "pipeline", "flights", "-o", "yaml").out
    assert "dashboards:" in printed
    back = stack.ok("apply", "-", stdin=printed)
    assert {line.split()[2] for line in back.out.splitlines()} == {"unchanged"}, back.out


@pytest.mark.timeout(300)
def test_the_year_counts_as_a_plain_script_counts_it(demo: tuple[Stack, str], tmp_path: Path) -> None:
    stack, _ = demo
    expected = script("check").counts(stack.home / "demo")
    text = (FLIGHTS / "pipeline.yaml").read_text()
    live = next(line.strip() for line in text.splitlines() if "live_from:" in line)
    path = tmp_path / "year.yaml"
    path.write_text(text.replace(live, WHOLE_YEAR).replace("name: flights\n", "name: flights\n  namespace: year\n", 1))
    stack.ok("apply", str(path))
    kept, refused = expected["flights"], sum(expected["dead_letters"].values())
    assert refused == PLANTED + REAL

    def whole() -> bool:
        table = json.loads(stack.ok("get", "table", "flights", "-n", "year", "-o", "json").out)
        return int(table.get("row_count", 0)) >= kept and int(table.get("dead_letter_count", 0)) >= refused

    until(whole, limit_s=240, what="the whole year")
    (totals,) = stack.rows("SELECT count(*) AS n, sum(dep_delay) AS s FROM flights", "-n", "year")
    assert totals == {"n": kept, "s": expected["delay_minutes"]}
    grouped = "SELECT status, count(*) AS n FROM departures GROUP BY status"

    def by_status() -> dict[str, int]:
        return {row["status"]: row["n"] for row in stack.rows(grouped, "-n", "year")}

    until(lambda: sum(by_status().values()) >= kept, limit_s=60, what="the departures")
    assert by_status() == expected["status"]
    letters = json.loads(stack.ok("dead-letters", "flights", "-n", "year", "--by-reason", "-o", "json").out)
    reasons = {row["reason"] for row in letters}
    assert {reason: sum(row["rows"] for row in letters if row["reason"] == reason) for reason in reasons} == (
        expected["dead_letters"]
    )
    weather = stack.rows("SELECT count(*) AS n FROM weather", "-n", "year")[0]["n"]
    airlines = stack.rows("SELECT count(*) AS n FROM airlines", "-n", "year")[0]["n"]
    assert (weather, airlines) == (26_114, 16)
