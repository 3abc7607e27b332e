"""The reader's cache: bounded, fetched once, taken over from a dead process; and keys that are read again when they change."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pyarrow as pa
import pytest

from millrace.errors import StoreUnavailable
from svc_storage.adapters.s3.cache import FileCache
from svc_storage.adapters.s3.credentials import Credentials

KIB = 1024


def fetched(content: bytes, log: list[str] | None = None) -> Callable[[Path], None]:
    def fetch(path: Path) -> None:
        if log is not None:
            log.append("fetched")
        path.write_bytes(content)

    return fetch


def read(file: pa.NativeFile) -> bytes:
    with file:
        return bytes(file.read())


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    cache, log = FileCache.claim(tmp_path, 4 * KIB), []
    for key in "abcd":
        cache.open(key, fetched(bytes(KIB), log)).close()
    cache.open("a", fetched(b"", log)).close()  # used again: `b` is the oldest now
    cache.open("e", fetched(bytes(KIB), log)).close()
    assert len(log) == 5
    cache.open("a", fetched(bytes(KIB), log)).close()
    assert len(log) == 5
    cache.open("b", fetched(bytes(KIB), log)).close()
    assert len(log) == 6
    assert sum(path.stat().st_size for path in tmp_path.glob("*/[!L]*")) <= 4 * KIB


def test_an_open_copy_outlives_its_eviction(tmp_path: Path) -> None:
    cache = FileCache.claim(tmp_path, 4 * KIB)
    held = cache.open("a", fetched(b"x" * KIB))
    for key in "bcdef":
        cache.open(key, fetched(bytes(KIB))).close()
    assert read(held) == b"x" * KIB


def test_many_readers_fetch_a_file_once(tmp_path: Path) -> None:
    cache, log, go = FileCache.claim(tmp_path, 4 * KIB), [], Event()

    def slowly(path: Path) -> None:
        log.append("fetched")
        go.wait(5)
        path.write_bytes(b"y")

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(lambda: read(cache.open("a", slowly))) for _ in range(4)]
        go.set()
        assert [reader.result() for reader in readers] == [b"y"] * 4
    assert log == ["fetched"]


def test_a_fetch_that_fails_leaves_nothing(tmp_path: Path) -> None:
    cache = FileCache.claim(tmp_path, 4 * KIB)

    def broken(path: Path) -> None:
        path.write_bytes(b"half")
        raise StoreUnavailable("away")

    with pytest.raises(StoreUnavailable):
        cache.open("a", broken)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["LOCK"]
    assert read(cache.open("a", fetched(b"whole"))) == b"whole"


def test_what_would_push_out_too_much_is_not_kept(tmp_path: Path) -> None:
    cache = FileCache.claim(tmp_path, 4 * KIB)
    assert cache.takes(KIB)
    assert not cache.takes(2 * KIB)
    large = cache.spool()
    large.write_bytes(bytes(2 * KIB))
    cache.adopt("a", large)
    assert not large.exists()


def test_processes_share_no_folder_and_a_dead_ones_is_taken_over(tmp_path: Path) -> None:
    first, second = FileCache.claim(tmp_path, 4 * KIB), FileCache.claim(tmp_path, 4 * KIB)
    first.open("a", fetched(b"kept")).close()
    first.spool().write_bytes(b"being made when it died")
    first.close()
    log: list[str] = []
    third = FileCache.claim(tmp_path, 4 * KIB)
    assert read(third.open("a", fetched(b"", log))) == b"kept"
    assert log == []
    assert not list(tmp_path.rglob("new-*"))
    second.close()


def test_copies_of_before_a_restart_of_the_machine_are_not_trusted(tmp_path: Path) -> None:
    """They were never fsynced."""
    cache = FileCache.claim(tmp_path, 4 * KIB)
    cache.open("a", fetched(b"old")).close()
    cache.close()
    (tmp_path / "0" / "LOCK").write_text("another boot")
    assert read(FileCache.claim(tmp_path, 4 * KIB).open("a", fetched(b"fresh"))) == b"fresh"


def test_keys_change_with_their_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("one\n")
    keys = Credentials("env:ACCESS", f"file:{file}", environment={"ACCESS": "me"})
    before = keys.current()
    assert (before.access_key_id, before.secret_access_key) == ("me", "one")
    file.write_text("two\n")
    os.utime(file, ns=(1, 1))
    after = keys.current(look=True)
    assert (after.secret_access_key, after.number) == ("two", before.number + 1)
    file.unlink()  # being replaced: what was read last goes on
    assert keys.current(look=True) == after
    assert "two" not in repr(after)


def test_a_reference_that_names_nothing_is_named() -> None:
    with pytest.raises(StoreUnavailable, match="env:NOBODY"):
        Credentials("env:NOBODY", "env:NOBODY").current()
