"""docs/how-to/back-up-and-restore.md, done: a folder that is lost comes back, and a table moves from one kind of store to another."""

from __future__ import annotations

import json
import os
import shutil
import signal
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from millrace import connect
from millrace.laptop.home import PERSON, Endpoints
from tests.e2e.stack import Stack
from tests.integration.fleet.processes import Processes
from tests.servers.weed import settings, shared_weed

TABLE = """\
apiVersion: millrace.dev/v1
kind: Pipeline
metadata: {name: shop}
spec:
  tables:
    orders:
      event_time: at
      primary_key: [id]
      columns: {id: int64, at: "timestamp[UTC]", state: "string?", price: float64}
      rules: {price: {minimum: 0}}
"""
ROWS, BAD = 3_000, 30
PLACE = "backups/orders"


class Shop(Processes):
    """One storage and its command line."""

    def __init__(self, folder: Path, env: Mapping[str, str], archive: Path) -> None:
        super().__init__(folder, {**env, "MILLRACE_STORAGE_ARCHIVE": archive.as_uri()}, count=1)
        self._archive = archive
        self.millrace = Stack(folder)
        self._endpoints = Endpoints(
            {"storage": self.addresses[0]}, "http://127.0.0.1:1/", self.home.token(PERSON), os.getpid(), folder, {}
        )

    def up(self) -> None:
        self.start()
        self._endpoints.write()

    def stop(self) -> None:
        self.signal(0, signal.SIGTERM)
        process = self._running[0]
        assert process is not None
        assert process.wait(30) == 0

    def table(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.millrace.ok("get", "table", "orders", "-o", "json").out)
        return found

    def rows(self) -> list[dict[str, Any]]:
        token = self.home.token(PERSON).read_text().strip()
        with connect(storage=self.addresses[0], token=token) as client:
            found: list[dict[str, Any]] = client.table("orders").read().to_arrow().sort_by("id").to_pylist()
        return found

    def checksums(self, place: str) -> list[str]:
        """Of an export of the table, made now: of rows and dead letters, file by file."""
        self.millrace.ok("storage", "export", "orders", place)
        return checksums(Path(self._archive, place))


def checksums(export: Path) -> list[str]:
    manifest = json.loads((export / "manifest.json").read_text())
    return [part["sha256"] for kind in ("rows", "dead_letters") for part in manifest[kind]]


@contextmanager
def shop(folder: Path, env: Mapping[str, str], archive: Path) -> Iterator[Shop]:
    made = Shop(folder, env, archive)
    try:
        made.up()
        yield made
    finally:
        made.close()


def fill(made: Shop, folder: Path) -> Path:
    """Rows, and some that break the table's rule; the file they came from."""
    (folder / "shop.yaml").write_text(TABLE)
    made.millrace.ok("apply", str(folder / "shop.yaml"))
    path = folder / "orders.csv"
    lines = [f"{n},2026-11-24T12:00:00Z,s{n % 7},{-1 if n < BAD else n}.5" for n in range(ROWS + BAD)]
    path.write_text("\n".join(["id,at,state,price", *lines]) + "\n")
    made.millrace.ok("load", str(path), "-t", "orders", "--bad-rows", "dead-letter")
    return path


def comes_back(made: Shop, before: dict[str, Any], rows: list[dict[str, Any]], loaded: Path) -> None:
    """Rows, dead letters and writers are as they were: what was loaded is not loaded twice."""
    said = made.millrace.ok("storage", "import", PLACE, "orders")
    assert f"imported from `{PLACE}`" in said.out
    table = made.table()
    for what in ("row_count", "dead_letter_count", "schema", "primary_key", "rules", "event_time_column"):
        assert table.get(what) == before.get(what), what
    assert made.rows() == rows
    made.millrace.ok("load", str(loaded), "-t", "orders", "--bad-rows", "dead-letter")
    assert made.table()["row_count"] == str(ROWS)
    made.millrace.ok("storage", "fsck", "orders")
    applied = made.millrace.ok("apply", str(loaded.with_name("shop.yaml"))).out.splitlines()
    assert applied[0].split()[:3] == ["table", "orders", "unchanged"]


@pytest.mark.timeout(180)
def test_a_lost_folder_comes_back(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    with shop(tmp_path / "home", {}, archive) as made:
        loaded = fill(made, tmp_path)
        before, rows = made.table(), made.rows()
        assert (before["row_count"], before["dead_letter_count"]) == (str(ROWS), str(BAD))
        out = made.checksums(PLACE)
        made.stop()
        shutil.rmtree(made.home.data)
        made.up()
        assert made.millrace.run("get", "table", "orders").code != 0
        comes_back(made, before, rows, loaded)
        assert made.checksums("backups/again") == out


@pytest.mark.needs("cassandra")
@pytest.mark.timeout(400)
def test_a_table_moves_from_cassandra_to_s3(tmp_path: Path) -> None:
    from tests.servers.cassandra import shared_cassandra

    archive = tmp_path / "archive"
    cassandra = {
        "MILLRACE_STORAGE_BACKEND": "cassandra",
        "MILLRACE_STORAGE_CASSANDRA_CONTACT_POINTS": ",".join(shared_cassandra().contact_points),
        "MILLRACE_STORAGE_CASSANDRA_KEYSPACE": f"d_{uuid.uuid4().hex[:12]}",
    }
    with shop(tmp_path / "one", cassandra, archive) as made:
        loaded = fill(made, tmp_path)
        before, rows = made.table(), made.rows()
        out = made.checksums(PLACE)
    with shop(tmp_path / "other", settings(shared_weed(), f"drill/{uuid.uuid4().hex[:12]}"), archive) as made:
        comes_back(made, before, rows, loaded)
        assert made.checksums("backups/again") == out
