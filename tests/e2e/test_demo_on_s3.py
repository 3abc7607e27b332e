"""The demo with two replicas of each service over a store that they share: a day of kills, and every flight counts once."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stack import Stack, started, until
from tests.e2e.test_demo import FLIGHTS, script

LINES = 20_000
"""Of the year's: 1 to 23 January."""
LIVE_FROM, SPEED = "live_from: 2013-01-12T00:00:00-05:00", "speed: 100000"
"""Half of them at once, the other half in ten seconds."""
CHOSEN = os.environ.get("TEST_BACKENDS", "").split(",")
CASSANDRA = pytest.param("cassandra", marks=pytest.mark.needs("cassandra"))
BACKENDS = ["s3", *([CASSANDRA] if "cassandra" in CHOSEN else [])]


def lay_out(folder: Path) -> None:
    """The demo's files, the flights cut to `LINES`."""
    script("prepare").main(["--out", str(folder)])
    flights = folder / "flights.csv"
    with flights.open("rb") as lines:
        kept = [line for line, _ in zip(lines, range(LINES + 1), strict=False)]
    flights.write_bytes(b"".join(kept))


@pytest.fixture(scope="module", params=BACKENDS)
def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    home = tmp_path_factory.mktemp("fleet")
    lay_out(home / "demo")
    with started(home, "--no-demo", "--replicas", "2", "--backend", request.param, "--servers") as stack:
        yield stack


def services(stack: Stack) -> dict[str, dict[str, Any]]:
    """What runs, by the name that the supervisor has for it."""
    found = json.loads(stack.run("status", "-o", "json").out)["services"]
    return {f"{one['service']}-{one['replica']}": one for one in found}


def kill(stack: Stack, name: str) -> int:
    pid = int(services(stack)[name]["status"]["pid"])
    os.kill(pid, signal.SIGKILL)
    return pid


def back(stack: Stack, name: str, dead: int) -> bool:
    one = services(stack)[name]
    return one["state"] == "serving" and int(one["status"]["pid"]) != dead


def pipeline(folder: Path) -> Path:
    path = folder / "fleet.yaml"
    text = (FLIGHTS / "pipeline.yaml").read_text()
    lines = [line.strip() for line in text.splitlines()]
    live, speed = (next(line for line in lines if line.startswith(what)) for what in ("live_from:", "speed:"))
    path.write_text(text.replace(live, LIVE_FROM).replace(speed, SPEED))
    return path


@pytest.mark.timeout(300)
def test_kills_lose_and_double_nothing(fleet: Stack, tmp_path: Path) -> None:
    expected = script("check").counts(fleet.home / "demo")
    kept, refused = expected["flights"], sum(expected["dead_letters"].values())
    assert kept + refused == LINES
    fleet.ok("apply", str(pipeline(tmp_path)))
    fleet.ok("apply", str(FLIGHTS / "dashboard.yaml"))
    until(lambda: fleet.one("SELECT count(*) FROM flights") > 0, limit_s=60, what="the first flights")
    dead = {name: kill(fleet, name) for name in ("storage-1", "analysis-2")}

    def counted() -> int:
        return int(fleet.one("SELECT count(*) FROM departures"))

    seen = counted()  # the other replica answers
    until(lambda: counted() >= max(seen, kept), limit_s=120, what="all departures")
    assert counted() == kept
    assert fleet.one("SELECT sum(dep_delay) FROM flights") == expected["delay_minutes"]
    grouped = fleet.rows("SELECT status, count(*) AS n FROM departures GROUP BY status")
    assert {row["status"]: row["n"] for row in grouped} == expected["status"]
    letters = json.loads(fleet.ok("dead-letters", "flights", "--by-reason", "-o", "json").out)
    assert sum(row["rows"] for row in letters) == refused
    until(lambda: all(back(fleet, *one) for one in dead.items()), limit_s=60, what="the killed ones")
    fleet.ok("storage", "fsck", "flights")


def test_the_page_answers(fleet: Stack) -> None:
    with urllib.request.urlopen(fleet.endpoints.url, timeout=30) as answer:
        assert answer.status == 200
        assert b"Millrace" in answer.read()


def test_every_replica_is_shown(fleet: Stack) -> None:
    assert len(services(fleet)) == 10
    assert {one["state"] for one in services(fleet).values()} == {"serving"}


def test_what_was_started_ends(fleet: Stack) -> None:
    """`down` ends the store's server too."""
    pids = [int(one["status"]["pid"]) for one in services(fleet).values()]
    supervisor = fleet.endpoints.pid
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    assert {str(pid) for pid in pids} < set(children), "a server beside the services"
    fleet.ok("down")
    ended = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in children):
        assert time.monotonic() < ended
        time.sleep(0.1)
