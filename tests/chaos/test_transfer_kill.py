"""kill -9 at every durable step of export and import: begun again, they end with the same rows, each once."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.chaos.nursery import Nursery

POINTS = (
    "storage.before_export_receipt",
    "storage.before_manifest",
    "storage.before_import_commit",
    "storage.after_catalog_commit",
)


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("hit", [1, 3])
def test_kills_at(point: str, hit: int, tmp_path: Path, nursery: Nursery) -> None:
    code, said, wrong = run(nursery, tmp_path, f"{point}=kill:{hit}")
    assert code in (0, -signal.SIGKILL), wrong[-3000:]
    assert code or hit > 1, f"{point} was not met"
    code, said, wrong = run(nursery, tmp_path, "")
    assert said == ["same", "done"], wrong[-3000:]


def run(nursery: Nursery, folder: Path, failpoints: str) -> tuple[int, list[str], str]:
    env = {**os.environ, "MILLRACE_FAILPOINTS": failpoints}
    code, said, wrong = nursery.run("tests.chaos.transfer_child", [str(folder)], env, folder)
    return code, said.splitlines(), wrong
