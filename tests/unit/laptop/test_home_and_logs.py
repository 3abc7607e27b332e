"""The supervisor's files: tokens, endpoints, locks, logs, ports."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from pathlib import Path

import pytest

from millrace.laptop import logfiles, ports, up
from millrace.laptop.failure import UpFailed
from millrace.laptop.home import AREAS, Endpoints, Home, read_endpoints
from millrace.laptop.pidfile import PidFile, running


def test_tokens_are_made_once_private_and_named_in_the_principals(home: Path) -> None:
    place = Home(home)
    place.prepare()
    tokens = {name: place.token(name).read_text().strip() for name in ("local", *AREAS)}
    assert len(set(tokens.values())) == 6
    place.prepare()
    assert {name: place.token(name).read_text().strip() for name in tokens} == tokens
    entries = json.loads(place.principals.read_text())
    assert entries[hashlib.sha256(tokens["local"].encode()).hexdigest()] == {
        "principal": "local",
        "roles": ["admin"],
        "kind": "person",
    }
    assert entries[hashlib.sha256(tokens["viz"].encode()).hexdigest()]["kind"] == "service"
    assert all(token not in place.principals.read_text() for token in tokens.values())
    for path in (*map(place.token, tokens), place.principals):
        assert path.stat().st_mode & 0o777 == 0o600
    assert place.page_key() == place.page_key()


def test_endpoints_come_back_as_written(home: Path) -> None:
    written = Endpoints({"viz": "127.0.0.1:1"}, "http://x/?key=k", home / "t", 7, home, {"viz": "why"})
    written.write()
    assert read_endpoints(home) == written
    (home / "endpoints.json").write_text("{}")
    with pytest.raises(ValueError, match="damaged"):
        read_endpoints(home)


def test_the_lock_tells_not_the_number(home: Path) -> None:
    path = home / "supervisor.pid"
    path.write_text('{"pid": 1}')  # left behind, of a process that lives: it is not ours all the same
    assert running(path) == 0
    first = PidFile(path)
    assert first.take() == 0
    assert PidFile(path).take() == os.getpid()
    assert running(path) == os.getpid()
    first.release()
    assert running(path) == 0


def test_the_newest_fatal_line_of_this_start_is_found(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    old = json.dumps({"level": "FATAL", "message": "of last time"}) + "\n"
    log.write_text(old)
    since = logfiles.size(log)
    assert logfiles.fatal_message(log, since) == ""
    with log.open("a") as file:
        file.write('{"level": "INFO", "message": "listening"}\nTraceback\nImportError: no deltalake\n')
    assert logfiles.fatal_message(log, since) == "ImportError: no deltalake"
    assert logfiles.last_message(log, since) == "listening"
    with log.open("a") as file:
        file.write('{"level": "FATAL", "message": "the disk is full"}\n{"level": "INFO", "message": "bye"}\n')
    assert logfiles.fatal_message(log, since) == "the disk is full"
    log.write_text('{"level": "FATAL", "message": "after a cut"}\n')
    assert logfiles.fatal_message(log, 10_000) == "after a cut"


def test_logs_are_rotated_while_someone_appends(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    handle = logfiles.open_log(log)
    for round_ in range(4):
        os.write(handle, f"{round_}".encode() * 100)
        assert logfiles.rotate(log, limit=50)
    os.write(handle, b"now")
    os.close(handle)
    assert log.read_bytes() == b"now"
    assert log.with_suffix(".log.1").read_bytes() == b"3" * 100
    assert log.with_suffix(".log.2").read_bytes() == b"2" * 100
    assert not log.with_suffix(".log.3").exists()
    assert not logfiles.rotate(log, limit=50)


def test_ports_are_held_against_strangers_and_left_to_our_services() -> None:
    held = ports.bind(0)
    assert len(set(held.numbers.values())) == 6
    address = ("127.0.0.1", held.numbers["storage"])
    with socket.socket() as service:
        service.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        service.bind(address)
        service.listen()
        with socket.create_connection(address, timeout=2):
            pass
    with socket.socket() as client:
        assert client.connect_ex(address) != 0  # held, but nobody listens: refused at once
    held.close()


def test_a_taken_port_is_waited_for_then_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "RETRY_S", 0.2)
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        with pytest.raises(UpFailed, match=rf"port {port} \(page\) is taken"):
            ports.bind(port)


def test_a_full_disk_is_told_before_anything_starts(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(up, "MIN_FREE_BYTES", 1 << 62)
    said: list[str] = []
    assert up.up(up.UpOptions(home=home / "new", port_base=0, say=said.append)) == 1
    assert said[0].startswith(f"error: {home} has ")
    assert not (home / "new").exists()
