"""Storage on S3 as a process: what it refuses to start on, in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from millrace.laptop.servers.weed import Weed
from tests.servers.unconditional import unconditional
from tests.servers.weed import settings, shared_weed

ROOT = Path(__file__).parents[3]


@pytest.fixture
def weed() -> Weed:
    return shared_weed()


@pytest.fixture
def env(weed: Weed, home: Path) -> dict[str, str]:
    prefix = f"start/{uuid.uuid4().hex[:8]}"
    return {"MILLRACE_HOME": str(home), "MILLRACE_STORAGE_PORT": "0", **settings(weed, prefix)}


def fatal(env: dict[str, str]) -> dict[str, Any]:
    """The one line of a storage that could not start."""
    done = subprocess.run(
        [sys.executable, "-m", "svc_storage"], cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True, timeout=60
    )  # fmt: skip
    assert done.returncode == 1
    (line,) = [json.loads(line) for line in done.stderr.splitlines() if '"FATAL"' in line]
    assert env["WEED_SECRET_KEY"] not in done.stderr
    return dict(line)


def test_wrong_keys(env: dict[str, str]) -> None:
    line = fatal({**env, "WEED_SECRET_KEY": "not the secret"})
    assert line["reason"] == "STORE_UNAVAILABLE"
    assert line["message"].startswith(f"{env['MILLRACE_STORAGE_S3_URL']}: the object store refuses the credentials")


def test_a_missing_bucket(env: dict[str, str]) -> None:
    line = fatal({**env, "MILLRACE_STORAGE_S3_URL": "s3://nowhere/x"})
    assert line["message"] == "s3://nowhere/x: the bucket does not exist (make it first)"


def test_a_store_that_does_not_answer(env: dict[str, str]) -> None:
    line = fatal({**env, "MILLRACE_STORAGE_S3_ENDPOINT": "http://127.0.0.1:1"})
    assert line["message"].endswith(": the object store does not answer")


def test_a_store_without_conditional_put(weed: Weed, env: dict[str, str]) -> None:
    with unconditional(weed) as endpoint:
        line = fatal({**env, "MILLRACE_STORAGE_S3_ENDPOINT": endpoint})
    assert "cannot put an object only if there is none" in line["message"]
    assert "4 of 4 won a race that one must win" in line["message"]


def test_two_clusters_with_one_prefix(weed: Weed, env: dict[str, str]) -> None:
    from svc_storage.adapters.s3.preflight import claim
    from tests.servers.weed import objects

    claim(objects(weed, env["MILLRACE_STORAGE_S3_URL"].partition("//")[2].partition("/")[2]), "plant-a")
    line = fatal({**env, "MILLRACE_STORAGE_CLUSTER": "plant-b"})
    assert "belongs to the cluster `plant-a`, this one is `plant-b`" in line["message"]


def test_settings_are_checked_together(env: dict[str, str]) -> None:
    secret = "AKIA-the-key-itself"
    wrong = {
        "MILLRACE_STORAGE_S3_URL": "bucket/prefix",
        "MILLRACE_STORAGE_S3_ACCESS_KEY": secret,
        "MILLRACE_STORAGE_S3_SECRET_KEY": "env:NOBODY_SET_THIS",
    }
    message = fatal({**env, **wrong})["message"]
    assert "MILLRACE_STORAGE_S3_URL is not s3://bucket/prefix" in message
    assert "MILLRACE_STORAGE_S3_ACCESS_KEY is not a reference" in message
    assert "names NOBODY_SET_THIS, which is not set" in message
    assert secret not in message


def test_a_reference_that_names_nothing(env: dict[str, str], tmp_path: Path) -> None:
    line = fatal({**env, "MILLRACE_STORAGE_S3_SECRET_KEY": f"file:{tmp_path}/missing"})
    assert "names nothing that can be read" in line["message"]
