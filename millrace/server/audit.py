"""Who did what, and who was refused: one JSON line each, in a stream of its own. Never a value, a condition or a token.

Its logger is `millrace.audit`; the lines go to the process's own log, or to MILLRACE_AUDIT_FILE (0600, opened again after a rotation).
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import sys
from collections.abc import Sequence
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any, TextIO

from google.protobuf.message import Message

NAME = "millrace.audit"
MAX_RESOURCES = 20
_log = logging.getLogger(NAME)


def start_audit(path: Path | None, stream: TextIO | None = None) -> None:
    """Where lines go from now on; None: `stream` (stderr). Raises OSError when the file cannot be written."""
    handler: logging.Handler
    if path is None:
        handler = logging.StreamHandler(stream or sys.stderr)
    else:
        handler = _Private(path)
    handler.setFormatter(logging.Formatter("%(message)s"))
    for old in _log.handlers[:]:
        _log.removeHandler(old)
        old.close()
    _log.addHandler(handler)
    _log.setLevel(logging.INFO)
    _log.propagate = False


class _Private(WatchedFileHandler):
    """Readable by the owner alone, from its first byte."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8")

    def _open(self) -> Any:
        return open(os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a", encoding="utf-8")


def write(
    *,
    principal: str,
    on_behalf_of: str,
    method: str,
    resources: Sequence[str],
    request_id: str,
    code: str,
    reason: str,
    trace_id: str,
) -> None:
    """One line. What is empty is left out."""
    said: dict[str, object] = {
        "time": dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds"),
        "audit": "refused" if code in ("PERMISSION_DENIED", "UNAUTHENTICATED") else "change",
        "principal": principal,
        "on_behalf_of": on_behalf_of,
        "method": method.strip("/"),
        "resource": list(resources[:MAX_RESOURCES]),
        "request_id": request_id,
        "code": code,
        "reason": reason,
        "trace_id": trace_id,
    }
    _log.info("%s", json.dumps({key: value for key, value in said.items() if value}, ensure_ascii=False))


def request_id_of(message: object) -> str:
    """The `request_id` of a request that has one."""
    if isinstance(message, Message) and "request_id" in message.DESCRIPTOR.fields_by_name:
        return str(message.request_id)[:128]  # type: ignore[attr-defined]
    return ""
