"""Local copies: bounded, whole or not there, never taken from under a reader."""

from __future__ import annotations

from pathlib import Path

import pytest

from millrace.engine.shelf import Hold, Shelf
from millrace.errors import DiskFull


def put(shelf: Shelf, name: str, size: int) -> Hold:
    with shelf.draft(name) as draft:
        draft.reserve(size)
        draft.path.write_bytes(b"x" * size)
        return shelf.keep(draft)


def names(shelf: Shelf) -> set[str]:
    return {path.name for path in shelf.folder.iterdir()}


def test_the_least_recently_used_goes(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, 30)
    for name in "abc":
        put(shelf, name, 10)
    assert shelf.hold([str(shelf.path("a"))]) is not None  # used again
    put(shelf, "d", 10)
    assert names(shelf) == {"a", "c", "d"}
    assert shelf.hold([str(shelf.path("b"))]) is None
    assert shelf.size_bytes == 30


def test_what_is_held_stays_and_a_full_shelf_refuses(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, 30)
    holds = [put(shelf, name, 10) for name in "abc"]
    with pytest.raises(DiskFull):
        put(shelf, "d", 10)
    assert names(shelf) == {"a", "b", "c"}
    assert shelf.size_bytes == 30
    del holds[1]
    put(shelf, "d", 10)
    assert names(shelf) == {"a", "c", "d"}


def broken_off(shelf: Shelf) -> None:
    with shelf.draft("a") as draft:
        draft.reserve(20)
        draft.path.write_bytes(b"x" * 5)
        raise KeyError


def test_a_draft_that_is_left_leaves_nothing(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, 30)
    with pytest.raises(KeyError):
        broken_off(shelf)
    assert names(shelf) == set()
    assert shelf.size_bytes == 0


def test_files_of_others_are_nobody_s_business(tmp_path: Path) -> None:
    (tmp_path / "shelf").mkdir()
    shelf = Shelf(tmp_path / "shelf", 10)
    assert shelf.hold([str(tmp_path / "elsewhere.parquet")]) is not None
