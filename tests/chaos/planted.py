"""Bugs that the kill tests have to catch: a test that cannot fail proves nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from svc_storage.adapters import disk
from svc_storage.domain.writing import assembly, committer, writers
from svc_storage.domain.writing.appending import AppendStream
from svc_storage.domain.writing.group import Ack

BUGS = ("ack_before_commit", "no_log_fsync", "position_outside", "no_epoch_check")


def plant(bug: str) -> None:
    """Breaks this process. Raises KeyError for an unknown name."""
    {
        "ack_before_commit": _ack_before_commit,
        "no_log_fsync": _no_log_fsync,
        "position_outside": _position_outside,
        "no_epoch_check": _no_epoch_check,
    }[bug]()


def _ack_before_commit() -> None:
    hand_in = AppendStream._hand_in

    def early(self: AppendStream, entry: Any) -> None:
        hand_in(self, entry)
        self._ack = Ack(next_offset=entry.mark.offset + entry.mark.rows, version=0, time_us=0)
        self._changed.set()

    AppendStream._hand_in = early  # type: ignore[method-assign]


def _no_log_fsync() -> None:
    sync = disk.fsync_file

    def lazy(path: Path) -> None:
        if path.parent.name != "_delta_log":
            sync(path)

    disk.fsync_file = lazy


def _position_outside() -> None:
    """The position is that of the commit before: as if it were stored by itself, later."""
    advanced = assembly._advanced

    def late(entry: Any, within: Any, stored: Any) -> Any:
        state = advanced(entry, within, stored)
        return replace(state, positions=stored[entry.stream.writer].positions)

    assembly._advanced = late


def _no_epoch_check() -> None:
    """Whoever comes is let in; an old stream goes on as if nothing had happened."""
    take_epoch = writers.take_epoch

    def lenient(stored: Any, claim: Any) -> Any:
        return stored or take_epoch(stored, replace(claim, epoch=0))

    committer.take_epoch = lenient  # type: ignore[attr-defined]
    committer._superseded = lambda older, newer: None  # type: ignore[assignment,return-value]
    committer.Committer.leave = lambda self, stream: None  # type: ignore[method-assign]
    AppendStream.fail = lambda self, failure: None  # type: ignore[method-assign]
