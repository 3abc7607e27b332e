"""What a store's server needs of the machine is said in one line when it is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from millrace.laptop.failure import UpFailed
from millrace.laptop.servers.cassandra import Cassandra


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("", "Cassandra needs Java 17, and there is none here"),
        ('openjdk version "11.0.2"', 'Cassandra needs Java 17, and this is openjdk version "11.0.2"'),
    ],
)
def test_without_java_17(version: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if version:
        java = tmp_path / "java"
        java.write_text(f"#!/bin/sh\necho '{version}' >&2\n")
        java.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UpFailed) as refused:
        Cassandra.start(tmp_path / "folder")
    assert refused.value.message == said
    assert not (tmp_path / "folder").exists()
