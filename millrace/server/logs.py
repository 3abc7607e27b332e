"""Logs of a service: one JSON object a line, pretty on a terminal. Never row values, never tokens."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from typing import IO

from millrace.server.telemetry import trace_id

FATAL = "FATAL"
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
EXTRAS = ("method", "code", "reason", "end_reason", "duration_ms", "principal", "rows", "bytes")
"""Fields a log call may add by `extra={"call": {...}}`; `method` is written as `rpc.method`."""
_NOISY = ("grpc", "asyncio", "opentelemetry", "tornado.access", "bokeh")
_COLOURS = {"DEBUG": "\x1b[2m", "INFO": "", "WARNING": "\x1b[33m", "ERROR": "\x1b[31m", FATAL: "\x1b[1;31m"}


def start_logging(service: str, level: str = "INFO", stream: IO[str] | None = None) -> None:
    """Replaces the root logger's handlers: everything goes to `stream` (standard error)."""
    target = stream or sys.stderr
    handler = logging.StreamHandler(target)
    handler.setFormatter(Pretty() if target.isatty() else Json(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    logging.captureWarnings(True)
    handler.addFilter(_worth_a_line)
    set_level(level)


def set_level(level: str) -> str:
    """Of our own loggers; others stay at WARNING. The level before."""
    root = logging.getLogger()
    before = logging.getLevelName(root.level)
    root.setLevel(level)
    for name in _NOISY:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    return str(before)


def _worth_a_line(record: logging.LogRecord) -> bool:
    """grpc.aio logs as errors that the calls of a stopping server were cancelled; our own span and log line have those already."""
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or not issubclass(kind, asyncio.CancelledError)


class Json(logging.Formatter):
    """Keys: time (RFC 3339, UTC, milliseconds), level, service, logger, message, trace_id, rpc.method, code, reason, exception."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname,
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if found := trace_id():
            entry["trace_id"] = found
        for key, value in getattr(record, "call", {}).items():
            entry["rpc.method" if key == "method" else key] = value
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


class Pretty(logging.Formatter):
    """`12:34:56.789 INFO    message  method=… code=…`."""

    def format(self, record: logging.LogRecord) -> str:
        about = "".join(f"  {key}={value}" for key, value in getattr(record, "call", {}).items())
        text = f"{_time(record)[11:23]} {record.levelname:<7} {record.getMessage()}{about}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return f"{_COLOURS.get(record.levelname, '')}{text}\x1b[0m"


def _time(record: logging.LogRecord) -> str:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{stamp}.{int(record.msecs):03d}Z"


def fatal_line(
    service: str, message: str, *, reason: str = "", exception: str = "", stream: IO[str] | None = None
) -> None:
    """The one line of a service that cannot start; whoever started it looks for `"level": "FATAL"`."""
    entry = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "level": FATAL,
        "service": service,
        "message": " ".join(message.split()),
    }
    if reason:
        entry["reason"] = reason
    if exception:
        entry["exception"] = exception
    target = stream or sys.stderr
    target.write(json.dumps(entry, ensure_ascii=False) + "\n")
    target.flush()
