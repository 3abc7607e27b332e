"""`QuerySpec` and `SqlQuery` to the domain's questions."""

from __future__ import annotations

import hashlib
from typing import Any, TypeVar

from google.protobuf.message import Message

from millrace.analysis.v1 import query_pb2
from millrace.engine.names import check_namespace, full_name
from millrace.errors import FieldInvalid, FieldRequired
from millrace.wire.values import python_from_proto
from svc_analysis.convert.conditions import optional_condition, time_range_from
from svc_analysis.domain.question import Question, SqlText
from svc_analysis.ports import (
    Aggregate,
    Bins,
    Column,
    Dimension,
    Expression,
    Fill,
    Measure,
    OrderKey,
    Part,
    Spec,
    TimeBucket,
    TimePart,
    Unit,
)

_E = TypeVar("_E", Unit, Part, Aggregate)
_NOT_THE_QUESTION = ("encoding", "compression", "max_message_bytes", "resume_token")


def question_from(request: Any, *, field: str = "") -> Question:
    """From any request with `spec` | `sql`, `namespace` and perhaps `versions`. Raises FieldInvalid, FieldRequired."""
    namespace = check_namespace(request.namespace)
    asked: Spec | SqlText
    match request.WhichOneof("question"):
        case "spec":
            asked = spec_from(request.spec, namespace)
        case "sql":
            asked = sql_from(request.sql)
        case _:
            raise FieldRequired("ask something: `spec` or `sql`", field=f"{field}spec")
    given = dict(getattr(request, "versions", {}))
    versions = {full_name(name, namespace, field=f"{field}versions"): version for name, version in given.items()}
    if any(version < 0 for version in versions.values()):
        raise FieldInvalid("a version is 0 or more", field=f"{field}versions")
    return Question(asked=asked, namespace=namespace, versions=versions, fingerprint=fingerprint_of(request))


def fingerprint_of(request: Message) -> bytes:
    """32 bytes that equal requests share, however their rows travel."""
    same = type(request)()
    same.CopyFrom(request)
    for name in _NOT_THE_QUESTION:
        if name in same.DESCRIPTOR.fields_by_name:
            same.ClearField(name)
    kind = same.DESCRIPTOR.full_name.encode()
    return hashlib.sha256(kind + b"\0" + same.SerializeToString(deterministic=True)).digest()


def sql_from(message: query_pb2.SqlQuery) -> SqlText:
    params = {name: python_from_proto(value, where=f"sql.params[{name}]") for name, value in message.params.items()}
    return SqlText(message.text, params)


def spec_from(message: query_pb2.QuerySpec, namespace: str) -> Spec:
    """Raises FieldInvalid naming the place. What the table must have is checked later."""
    if message.fill not in query_pb2.Fill.values():
        raise FieldInvalid("ZERO, GAP or LAST is expected", field="spec.fill")
    return Spec(
        table=full_name(message.table, namespace, field="spec.table"),
        dimensions=tuple(_dimension(d, f"spec.dimensions[{i}]") for i, d in enumerate(message.dimensions)),
        measures=tuple(_measure(m, f"spec.measures[{i}]") for i, m in enumerate(message.measures)),
        where=optional_condition(message.where, message.HasField("where"), "spec.where"),
        time_range=time_range_from(message.time_range, "spec.time_range"),
        time_column=message.time_column,
        last_seconds=message.last_seconds,
        previous_period=message.previous_period,
        fill=Fill(message.fill),
        order=tuple(OrderKey(key.column, key.descending) for key in message.order),
        limit=message.limit,
    )


def _dimension(message: query_pb2.Dimension, field: str) -> Dimension:
    return Dimension(message.name, _expression(message, field))


def _expression(message: query_pb2.Dimension, field: str) -> Expression:
    match message.WhichOneof("expression"):
        case "column":
            return Column(message.column)
        case "bucket":
            bucket = message.bucket
            unit = _enum(Unit, bucket.unit, f"{field}.bucket.unit")
            return TimeBucket(bucket.column, unit, bucket.count, bucket.zone)
        case "bin":
            low = message.bin.clamp_low if message.bin.HasField("clamp_low") else None
            high = message.bin.clamp_high if message.bin.HasField("clamp_high") else None
            return Bins(message.bin.column, message.bin.width, low, high)
        case "part":
            part = _enum(Part, message.part.part, f"{field}.part.part")
            return TimePart(message.part.column, part, message.part.zone)
    raise FieldRequired("one of column, bucket, bin, part is expected", field=f"{field}.column")


def _measure(message: query_pb2.Measure, field: str) -> Measure:
    return Measure(
        name=message.name,
        aggregate=_enum(Aggregate, message.aggregate, f"{field}.aggregate"),
        column=message.column,
        where=optional_condition(message.where, message.HasField("where"), f"{field}.where"),
        quantile=message.quantile if message.HasField("quantile") else None,
    )


def _enum(kind: type[_E], number: int, field: str) -> _E:
    """The wire counts from 1; 0 is UNSPECIFIED."""
    try:
        return kind(number - 1)
    except ValueError:
        raise FieldInvalid(f"one of {', '.join(one.name for one in kind)} is expected", field=field) from None
