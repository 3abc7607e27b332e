"""A pipeline of a person's own, from its file to its rows, by the command line alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from pathlib import Path

import pyarrow as pa
import pytest

from tests.e2e.stack import MILLRACE, ROOT, Stack, started, until

pytestmark = pytest.mark.timeout(240)  # the first of a module starts five processes

SHOP = """\
apiVersion: millrace.dev/v1
kind: Pipeline
metadata: {name: shop, title: A shop}
spec:
  tables:
    orders:
      event_time: placed
      columns: {id: int64, placed: "timestamp[Europe/Berlin]", price: "decimal(10,2)?", state: "string?"}
      rules:
        price: {minimum: 0, maximum: 9999}
    customers:
      primary_key: id
      columns: {id: int64, name: "string?"}
  sources:
    customers:
      table: customers
      files: {path: "${MILLRACE_HOME}/demo/customers.csv"}
    orders:
      table: orders
      continuous: true
      commit_interval: 100ms
      files: {path: "${MILLRACE_HOME}/demo/orders-*.csv", poll_interval: 100ms, csv: {null_values: ["", NA]}}
  transforms:
    paid:
      driving_table: orders
      event_time_column: placed
      sql: |
        SELECT o.id, o.placed, o.price, c.name
        FROM orders AS o LEFT JOIN customers AS c ON c.id = o.id
        WHERE o.state = 'paid'
"""


@pytest.fixture(scope="module")
def shop(stack: Stack) -> Path:
    """The pipeline's file, applied, with its first rows."""
    inbox = stack.home / "demo"
    inbox.mkdir(exist_ok=True)
    (inbox / "customers.csv").write_text("id,name\n1,Ada\n2,\n3,Grace\n")
    (inbox / "orders-1.csv").write_text(
        "id,placed,price,state\n"
        "1,2024-01-01T00:00:00Z,1.20,paid\n"
        "2,2024-01-02T00:00:00+01:00,NA,paid\n"
        "3,2024-01-03T00:00:00Z,-1,open\n"
        "4,yesterday,1,open\n"
    )
    path = stack.home / "shop.yaml"
    path.write_text(SHOP)
    said = stack.ok("apply", str(path))
    assert "customers                ran  3 rows" in said.out
    until(lambda: stack.one("SELECT count(*) FROM orders") == 2, what="the orders")
    until(
        lambda: stack.run("get", "table", "paid").code == 0 and stack.one("SELECT count(*) FROM paid") == 2, what="paid"
    )
    return path


def test_applying_again_does_nothing_and_what_get_prints_is_the_same(stack: Stack, shop: Path) -> None:
    again = stack.ok("apply", str(shop))
    assert {line.split()[2] for line in again.out.splitlines()} == {"unchanged"}, again.out
    printed = stack.ok("get", "pipeline", "shop", "-o", "yaml").out
    back = stack.ok("apply", "-", stdin=printed)
    assert {line.split()[2] for line in back.out.splitlines()} == {"unchanged"}, back.out
    assert len(json.loads(stack.ok("get", "runs", "-o", "json").out)) == 1


def test_types_are_shown_right(stack: Stack, shop: Path) -> None:
    said = stack.ok("query", "SELECT * FROM paid ORDER BY id")
    assert said.out.splitlines() == [
        "id  placed                price  name",
        "──  ────────────────────  ─────  ────",
        " 1  2024-01-01T00:00:00Z   1.20  Ada",
        " 2  2024-01-01T23:00:00Z   NULL  NULL",
    ]
    assert "2 rows" in said.err
    assert (
        stack.ok("query", "SELECT id, price, name FROM paid ORDER BY id", "-o", "csv").out
        == "id,price,name\n1,1.20,Ada\n2,,\n"
    )


def test_arrow_is_a_stream_and_large_results_are_not_collected(stack: Stack) -> None:
    command = [*MILLRACE, "query", "SELECT range AS n FROM range(2000000)", "-o", "arrow", "--max-rows", "3000000"]
    with subprocess.Popen(command, cwd=ROOT, env=stack.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        with pa.ipc.open_stream(process.stdout) as reader:
            rows = sum(batch.num_rows for batch in reader)
    assert rows == 2_000_000
    assert process.returncode == 0


def test_head_ends_a_query_quietly(stack: Stack) -> None:
    query = "-o csv --max-rows 5000000 'SELECT range AS n FROM range(5000000)'"
    env = {**stack.env, "PY": MILLRACE[0]}
    script = f"""set -o pipefail; "$PY" -c "from millrace.cli import main; main()" query {query} | head -2"""
    done = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "n\n0\n", "")


def test_parameters_and_pinned_versions(stack: Stack, shop: Path) -> None:
    assert stack.rows("SELECT id FROM paid WHERE price > $low", "--param", "low:decimal(10,2)=1.00") == [{"id": 1}]
    assert stack.rows("SELECT count(*) AS n FROM orders", "--version", "0") == [{"n": 0}]


def test_bad_rows_are_dead_letters(stack: Stack, shop: Path) -> None:
    by_reason = json.loads(stack.ok("dead-letters", "orders", "--by-reason", "-o", "json").out)
    assert sorted((one["reason"], one["field"], one["rows"]) for one in by_reason) == [
        ("RANGE", "price", 1),
        ("TYPE", "placed", 1),
    ]
    raws = [one["raw"] for one in json.loads(stack.ok("dead-letters", "orders", "-o", "json").out)]
    assert "4,yesterday,1,open" in raws


def test_versions_are_watched_as_new_files_land(stack: Stack, shop: Path) -> None:
    command = [*MILLRACE, "watch", "orders", "-o", "json"]
    watching = subprocess.Popen(
        command, cwd=ROOT, env=stack.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    stuck = threading.Timer(40, watching.kill)
    stuck.start()
    try:
        assert watching.stdout is not None
        first = json.loads(watching.stdout.readline())
        (stack.home / "demo" / "orders-2.csv").write_text("id,placed,price,state\n9,2024-02-01T00:00:00Z,9,paid\n")
        landed = json.loads(watching.stdout.readline())
        watching.send_signal(signal.SIGINT)
        _, said = watching.communicate(timeout=20)
    finally:
        stuck.cancel()
        watching.kill()
        watching.communicate()
    assert (watching.returncode, said) == (130, "")
    assert landed["version"] > first["version"]
    assert landed["rows_added"] == 1
    until(lambda: stack.one("SELECT count(*) FROM paid") == 3, what="the transform")


def test_status_shows_all_and_nothing_wrong(stack: Stack, shop: Path) -> None:
    said = json.loads(stack.ok("status", "-o", "json").out)
    assert [(one["service"], one["state"]) for one in said["services"]] == [
        (area, "serving") for area in ("extract", "storage", "transform", "analysis", "viz")
    ]
    assert said["problems"] == []
    assert {one["name"].rsplit("/", 1)[1] for one in said["tables"]} >= {"orders", "customers", "paid"}
    assert "sources/default/orders" in stack.ok("status").out or "orders" in stack.ok("status").out


def test_a_killed_service_is_named_and_comes_back(stack: Stack) -> None:
    said = json.loads(stack.ok("status", "-o", "json").out)
    pid = next(int(one["status"]["pid"]) for one in said["services"] if one["service"] == "analysis")
    os.kill(pid, signal.SIGSTOP)
    try:
        until(lambda: "analysis" in wrong(stack), limit_s=40, what="analysis among what is wrong")
    finally:
        os.kill(pid, signal.SIGKILL)
    until(lambda: not wrong(stack), limit_s=60, what="all well again")
    assert stack.one("SELECT 1") == 1


def wrong(stack: Stack) -> str:
    """The subjects of `status`'s problems."""
    answer = json.loads(stack.ok("status", "-o", "json", "--timeout", "1").out)
    return " ".join(problem["subject"] for problem in answer["problems"])


def test_a_load_goes_on_where_it_was(stack: Stack, tmp_path: Path) -> None:
    path = tmp_path / "numbers.csv"
    path.write_text("n,t\n" + "".join(f"{n},row {n}\n" for n in range(300_000)))
    loading = subprocess.Popen(
        [*MILLRACE, "load", str(path), "--table", "numbers"], cwd=ROOT,
        env=stack.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    until(lambda: stack.run("get", "table", "numbers").code == 0 or loading.poll() is not None, what="the table")
    loading.kill()
    loading.communicate()
    assert stack.ok("load", str(path), "--table", "numbers").code == 0
    assert stack.rows("SELECT count(*) AS n, count(DISTINCT n) AS d FROM numbers") == [{"n": 300_000, "d": 300_000}]


@pytest.mark.parametrize(
    ("arguments", "reason", "hint"),
    [
        (("query", "SELECT * FROM ordres"), "TABLE_NOT_FOUND", "did you mean `orders`?"),
        (("query", "SELECT * FROM read_csv('/etc/passwd')"), "SQL_INVALID", ""),
        (("watch", "ordres"), "TABLE_NOT_FOUND", "did you mean `orders`?"),
        (("get", "source", "order"), "SOURCE_NOT_FOUND", "did you mean `orders`?"),
        (("get", "transform", "payd"), "TRANSFORM_NOT_FOUND", "did you mean `paid`?"),
        (("get", "dashboard", "x"), "DASHBOARD_NOT_FOUND", "`millrace get dashboards` lists all"),
        (("delete", "table", "orders", "-y"), "TABLE_HAS_DEPENDENTS", "delete what uses it first"),
    ],
)
def test_errors_are_two_lines_with_reason_and_hint(
    stack: Stack, shop: Path, arguments: tuple[str, ...], reason: str, hint: str
) -> None:
    said = stack.run(*arguments)
    assert said.code == 1
    assert said.out == ""
    assert len(said.err.splitlines()) == 2, said.err
    assert said.err.splitlines()[0].endswith(f"[{reason}]")
    assert hint in said.err


def test_the_page_has_its_key(stack: Stack) -> None:
    assert stack.ok("open", "--print").out.startswith("http://127.0.0.1:")
    assert "?key=" in stack.ok("open", "--print").out


def test_a_second_up_says_so_and_down_stops(tmp_path: Path) -> None:
    with started(tmp_path / "home", "--no-demo") as stack:
        again = stack.process("up", "--no-demo")
        assert again.code == 0
        assert f"already running, pid {stack.endpoints.pid}" in again.err
        assert stack.ok("down").err == "stopped\n"
        assert "nothing runs in" in stack.ok("down").err
        gone = stack.run("get", "tables")
        assert gone.code == 1
        assert "[NOT_RUNNING]" in gone.err
