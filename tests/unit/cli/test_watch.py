"""`watch` tells each version once, in order, as lines for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path

from tests.unit.cli.conftest import Cli


def test_versions_as_they_landed(cli: Cli, tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.csv").write_text("n\n" + f"{number}\n" * (number + 1))
        assert cli("load", str(tmp_path / f"{number}.csv"), "--table", "steps").code == 0
    said = cli("watch", "steps", "--after", "0", "-o", "json", "--count", "3", "--timeout", "5")
    assert said.code == 0, said.err
    versions = [json.loads(line) for line in said.out.splitlines()]
    assert [one["rows_added"] for one in versions] == [1, 2, 3]
    assert [one["kind"] for one in versions] == ["append"] * 3
    assert [one["version"] for one in versions] == sorted(one["version"] for one in versions)
    line = cli("watch", "steps", "--count", "1").out
    assert "+3 rows" in line
    assert f"version {versions[-1]['version']}" in line


def test_a_table_that_is_not_there(cli: Cli) -> None:
    said = cli("watch", "stepps")
    assert said.code == 1
    assert "[TABLE_NOT_FOUND]" in said.err
