"""What a reader asks of one pinned version: columns, filter, time range, limit. Its encoding and its fingerprint."""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import hashlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from millrace.errors import TokenMismatch
from svc_storage.domain.reading.predicates import And, Compare, In, IsNull, Literal, Not, Op, Or, Predicate, columns_of
from svc_storage.domain.reading.tokens import FINGERPRINT_BYTES


@dataclass(frozen=True, slots=True)
class TimeRange:
    """[start, end) over the table's event-time column, UTC. None: open on that side."""

    start: dt.datetime | None = None
    end: dt.datetime | None = None


@dataclass(frozen=True, slots=True)
class Scan:
    """`columns`: in the order of the answer; empty: all that are not storage's own. `limit` 0: none.

    `after_version`: only rows that appends in (after_version, version] added; None: the whole version."""

    table: str
    columns: tuple[str, ...] = ()
    predicate: Predicate | None = None
    time_range: TimeRange | None = None
    limit: int = 0
    after_version: int | None = None


def encode(scan: Scan) -> bytes:
    """Deterministic: equal scans have equal bytes."""
    fields = {
        "t": scan.table,
        "c": scan.columns,
        "p": scan.predicate and _node_out(scan.predicate),
        "r": scan.time_range and [_value_out(v) if v else None for v in (scan.time_range.start, scan.time_range.end)],
        "l": scan.limit,
        "a": scan.after_version,
    }
    kept = {key: value for key, value in fields.items() if value not in (None, (), 0) or (key == "a" and value == 0)}
    return zlib.compress(json.dumps(kept, separators=(",", ":"), sort_keys=True).encode(), 9)


def decode(data: bytes) -> Scan:
    """Raises TokenMismatch for bytes that `encode` did not make."""
    try:
        return _scan_in(json.loads(zlib.decompress(data)))
    except (zlib.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as broken:
        raise TokenMismatch(
            "the token's request cannot be read", field="split_token", hint="plan the read again"
        ) from broken


def _scan_in(fields: dict[str, Any]) -> Scan:
    bounds = fields.get("r")
    scan = Scan(
        table=fields["t"],
        columns=tuple(fields.get("c", ())),
        predicate=_node_in(fields["p"]) if "p" in fields else None,
        time_range=TimeRange(*(_value_in(v) if v else None for v in bounds)) if bounds else None,  # type: ignore[arg-type]
        limit=fields.get("l", 0),
        after_version=fields.get("a"),
    )
    texts = all(isinstance(text, str) for text in (scan.table, *scan.columns, *_columns(scan.predicate)))
    counts: list[Any] = [scan.limit, scan.after_version or 0]
    if not texts or not all(isinstance(count, int) and count >= 0 for count in counts):
        raise ValueError("not a scan")
    return scan


def _columns(predicate: Predicate | None) -> Iterator[str]:
    return iter(()) if predicate is None else columns_of(predicate)


def fingerprint(*parts: bytes) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()[:FINGERPRINT_BYTES]


def _node_out(node: Predicate) -> list[Any]:
    match node:
        case Compare(column, op, value):
            return [op.value, column, _value_out(value)]
        case In(column, values):
            return ["in", column, [_value_out(v) for v in values]]
        case IsNull(column):
            return ["null", column]
        case Not(operand):
            return ["not", _node_out(operand)]
        case And(operands):
            return ["and", *(_node_out(o) for o in operands)]
        case Or(operands):
            return ["or", *(_node_out(o) for o in operands)]


def _node_in(node: list[Any]) -> Predicate:
    match node:
        case ["in", column, values]:
            return In(column, tuple(_value_in(v) for v in values))
        case ["null", column]:
            return IsNull(column)
        case ["not", operand]:
            return Not(_node_in(operand))
        case ["and", *operands]:
            return And(tuple(_node_in(o) for o in operands))
        case ["or", *operands]:
            return Or(tuple(_node_in(o) for o in operands))
        case [op, column, value]:
            return Compare(column, Op(op), _value_in(value))
    raise ValueError("not a predicate")


def _value_out(value: Literal) -> Any:
    match value:
        case bool() | str() | int():
            return value
        case float():
            return {"f": value.hex()}
        case bytes():
            return {"b": base64.b64encode(value).decode()}
        case decimal.Decimal():
            return {"d": str(value)}
        case dt.datetime():
            return {"ts" if value.tzinfo else "dt": value.isoformat()}
        case dt.date():
            return {"da": value.isoformat()}
        case dt.time():
            return {"ti": value.isoformat()}
        case dt.timedelta():
            return {"du": value // dt.timedelta(microseconds=1)}


def _value_in(value: Any) -> Literal:
    if not isinstance(value, dict):
        return value  # type: ignore[no-any-return]
    ((kind, text),) = value.items()
    readers: dict[str, Any] = {
        "f": float.fromhex,
        "b": base64.b64decode,
        "d": decimal.Decimal,
        "ts": dt.datetime.fromisoformat,
        "dt": dt.datetime.fromisoformat,
        "da": dt.date.fromisoformat,
        "ti": dt.time.fromisoformat,
        "du": lambda us: dt.timedelta(microseconds=us),
    }
    return readers[kind](text)  # type: ignore[no-any-return]
