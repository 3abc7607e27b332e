"""`millrace storage`: runs from the command line, with their reports, refusals and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest

from millrace.cli.maintenance import moment_of, span_of
from tests.unit.cli.conftest import Cli

TABLE = """\
apiVersion: millrace.dev/v1
kind: Pipeline
metadata: {{name: {name}}}
spec:
  tables:
    {name}:
      event_time: at
      primary_key: [id]
      columns: {{id: int64, at: "timestamp[UTC]", state: "string?"}}
      retention: {{keep_rows: 3650d, keep_versions: 7d}}
"""


@pytest.fixture
def orders(tmp_path: Path, cli: Cli, request: pytest.FixtureRequest) -> str:
    """A table of six rows in two versions."""
    name = "orders_" + request.node.name.removeprefix("test_").partition("[")[0][:40]
    path = tmp_path / "t.yaml"
    path.write_text(TABLE.format(name=name))
    assert cli("apply", str(path)).code == 0
    for part in range(2):
        file = tmp_path / f"{part}.csv"
        rows = [f"{part * 3 + row},2026-11-24T12:00:00Z,s{row}" for row in range(3)]
        file.write_text("\n".join(["id,at,state", *rows]))
        loaded = cli("load", str(file), "-t", name)
        assert loaded.code == 0, loaded.err
    return name


def report(out: str) -> dict[str, object]:
    found = json.loads(out)
    assert found["state"] == "SUCCEEDED"
    return dict(found["reports"][0])


def test_compact_and_check(cli: Cli, orders: str) -> None:
    done = cli("storage", "compact", orders)
    assert (done.code, "2 files written anew" in done.out) == (0, True), done
    checked = cli("storage", "fsck", orders)
    assert checked.code == 0, checked
    assert f"{orders}: sound" in checked.out
    runs = cli("storage", "runs", orders)
    assert [line.split()[1] for line in runs.out.splitlines()[1:]] == ["CHECK", "COMPACT"]


def test_erase_by_key_and_by_condition(cli: Cli, orders: str) -> None:
    assert cli("storage", "erase", orders, "--key", "1").code == 2, "nobody can be asked"
    by_key = report(cli("storage", "erase", orders, "--key", "1", "--key", "2", "-y", "-o", "json").out)
    assert (by_key["rows_erased"], by_key["verified"]) == ("2", True)
    assert "gone_time" in by_key
    said = cli("storage", "erase", orders, "--where", "state=s0", "--where", "id>=3", "-y")
    assert "1 row erased" in said.out
    wrong = cli("storage", "erase", orders, "--where", "id=x", "-y")
    assert wrong.code == 2
    assert "is no int64, which column id is" in wrong.err
    assert "no column `no`" in cli("storage", "erase", orders, "--where", "no=1", "-y").err


def test_restore_and_expire(cli: Cli, orders: str) -> None:
    assert cli("storage", "restore", orders, "-y").code == 2
    assert "3 rows came back" not in cli("storage", "restore", orders, "--version", "2", "-y").out
    rows = cli("get", "tables", orders, "-o", "json")
    assert json.loads(rows.out)["row_count"] == "3"
    expired = report(cli("storage", "expire", orders, "--keep", "1", "-y", "-o", "json").out)
    assert int(str(expired["oldest_version"])) == int(str(expired["version"])) - 1
    gone = cli("storage", "restore", orders, "--version", "2", "-y")
    assert (gone.code, "VERSION_EXPIRED" in gone.err) == (1, True)


def test_a_run_is_attached_to(cli: Cli, orders: str) -> None:
    for _ in range(2):
        done = cli("storage", "compact", orders, "--run-id", f"mine-{orders}", "-o", "json")
        assert report(done.out)["files_rewritten"] == "2"
    other = cli("storage", "expire", orders, "--keep", "1", "-y", "--run-id", f"mine-{orders}")
    assert (other.code, "REQUEST_ID_REUSED" in other.err) == (1, True)


def test_writers(cli: Cli, orders: str) -> None:
    listed = json.loads(cli("storage", "writers", orders, "-o", "json").out)
    assert len(listed) == 2
    assert cli("storage", "delete-writer", orders, listed[0]["writer_id"], "-y").code == 0
    assert len(json.loads(cli("storage", "writers", orders, "-o", "json").out)) == 1


def test_a_table_goes_out_and_comes_back(cli: Cli, orders: str, storage_home: Path) -> None:
    first = report(cli("storage", "export", orders, f"{orders}/first", "--version", "2", "-o", "json").out)
    assert first["notes"] == [f"3 rows in 1 files of `{orders}/first`"]
    whole = cli("storage", "export", orders, f"{orders}/all")
    assert (whole.code, f"6 rows in 1 files of `{orders}/all`" in whole.out) == (0, True), whole
    assert (storage_home / "archive" / orders / "all" / "manifest.json").is_file()
    copied = cli("storage", "import", f"{orders}/all", f"{orders}_copy")
    assert (copied.code, f"imported from `{orders}/all`" in copied.out) == (0, True), copied
    assert json.loads(cli("get", "tables", f"{orders}_copy", "-o", "json").out)["row_count"] == "6"
    taken = cli("storage", "import", f"{orders}/all", orders)
    assert (taken.code, "RESOURCE_EXISTS" in taken.err) == (1, True), taken
    nothing = cli("storage", "import", "nothing", f"{orders}_new")
    assert (nothing.code, "no finished export in `nothing`" in nothing.err) == (1, True), nothing


def test_what_does_not_exist_is_said(cli: Cli, orders: str) -> None:
    said = cli("storage", "compact", orders[:-1])
    assert (said.code, "TABLE_NOT_FOUND" in said.err) == (1, True)
    assert f"did you mean `{orders}`?" in said.err


def test_retention_is_part_of_the_file(cli: Cli, orders: str, tmp_path: Path) -> None:
    table = json.loads(cli("get", "tables", orders, "-o", "json").out)
    assert table["retention"] == {"keep_rows": "315360000s", "keep_versions": "604800s"}
    path = tmp_path / "t.yaml"
    assert cli("apply", str(path)).out.splitlines()[0].split()[2] == "unchanged"
    path.write_text(path.read_text().replace("keep_versions: 7d", "keep_versions: 9d"))
    assert cli("apply", str(path)).out.splitlines()[0].split()[2] == "changed"


def test_spans_and_moments() -> None:
    assert (span_of("30d").days, span_of("90s").seconds, span_of("15min").seconds) == (30, 90, 900)
    assert moment_of("2026-11-24").isoformat() == "2026-11-24T00:00:00+00:00"
    for text in ("soon", "5 fortnights"):
        with pytest.raises(click.UsageError):
            span_of(text)
    with pytest.raises(click.UsageError):
        moment_of("yesterday")
