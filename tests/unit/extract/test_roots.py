"""Sources read below their folders, and not what is Millrace's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from millrace.errors import NotAllowed
from svc_extract.adapters.connectors.files.listing import Roots
from svc_extract.config import Settings


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("a\n1\n")
    return path


def test_home_is_closed_although_the_start_folder_is_open(tmp_path: Path) -> None:
    home = tmp_path / ".millrace"
    roots = Roots((tmp_path.resolve(), (home / "demo").resolve()), home)
    token, demo, own = put(home / "tokens/local.token"), put(home / "demo/a.csv"), put(tmp_path / "in/a.csv")
    assert [sight.path for sight in roots.sights(str(own))] == [own]
    assert [sight.path for sight in roots.sights("${MILLRACE_HOME}/demo/*.csv")] == [demo]
    for closed in (str(token), str(home / "*/*.token"), str(tmp_path / ".millrace/data/catalog.sqlite")):
        with pytest.raises(NotAllowed):
            roots.sights(closed)
    (tmp_path / "link.csv").symlink_to(token)
    with pytest.raises(NotAllowed):
        roots.sights(str(tmp_path / "link.csv"))


def test_who_opens_home_by_name_has_it_open(tmp_path: Path) -> None:
    home = tmp_path / ".millrace"
    path = put(home / "a.csv")
    assert Roots((home.resolve(),), home).sights(str(path))


def test_the_defaults_open_the_demo_only(tmp_path: Path) -> None:
    settings = Settings.from_env({"MILLRACE_HOME": str(tmp_path)})
    assert (tmp_path / "demo").resolve() in settings.file_roots
    assert tmp_path.resolve() not in settings.file_roots
