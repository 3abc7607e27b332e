"""Reads between proto and domain."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from millrace.arrow.slices import LIMIT_BYTES
from millrace.errors import FieldInvalid
from millrace.storage.v1 import storage_pb2 as pb
from millrace.types.v1 import types_pb2
from millrace.wire.batch import batches_to_proto
from millrace.wire.clock import micros_of, timestamp_proto
from millrace.wire.schema import SCHEMA_ID, schema_to_proto
from svc_storage.convert.predicates import predicate_from, predicate_to, time_range_from
from svc_storage.domain.reading.pinned import Pinned
from svc_storage.domain.reading.reads import (
    PlannedSplit,
    ReadPlan,
    ReadWish,
    RowStream,
    SplitFile,
    SplitFiles,
    check_counts,
)
from svc_storage.domain.reading.rows import Chunk
from svc_storage.domain.reading.scans import Scan

MAX_COLUMNS = 2_000
MIN_MESSAGE_BYTES = 4_096


def wish_from(request: pb.PlanReadRequest) -> ReadWish:
    """Raises FieldInvalid naming the request's field."""
    check_counts(request.preferred_min_splits, request.max_splits)
    if request.limit < 0:
        raise FieldInvalid("0 means no limit", field="limit")
    if len(request.columns) > MAX_COLUMNS:
        raise FieldInvalid(f"at most {MAX_COLUMNS} columns", field="columns")
    at = request.WhichOneof("at")
    return ReadWish(
        scan=Scan(
            table=request.table,
            columns=tuple(request.columns),
            predicate=predicate_from(request.predicate) if request.HasField("predicate") else None,
            time_range=time_range_from(request.time_range) if request.HasField("time_range") else None,
            limit=request.limit,
            after_version=request.after_version if request.HasField("after_version") else None,
        ),
        table_uid=request.table_uid,
        version=request.version if at == "version" else None,
        as_of_us=micros_of(request.as_of, "as_of") if at == "as_of" else None,
        preferred_splits=request.preferred_min_splits,
        max_splits=request.max_splits,
        refine=request.refine_split,
    )


def plan_response(plan: ReadPlan) -> pb.PlanReadResponse:
    pinned = plan.pinned
    return pb.PlanReadResponse(
        version=pinned.version,
        table_uid=pinned.view.row.uid,
        schema=schema_of(pinned.schema, pinned.schema_id),
        splits=map(_split, plan.splits),
        estimated_rows=sum(split.rows for split in plan.splits),
        estimated_bytes=sum(split.bytes for split in plan.splits),
        expire_time=timestamp_proto(plan.expire_us),
    )


def _split(split: PlannedSplit) -> pb.Split:
    access = [pb.ACCESS_MODE_STREAM, pb.ACCESS_MODE_DIRECT] if split.direct else [pb.ACCESS_MODE_STREAM]
    return pb.Split(split_token=split.token, estimated_rows=split.rows, estimated_bytes=split.bytes, access=access)


def schema_of(schema: pa.Schema, schema_id: int) -> types_pb2.Schema:
    return schema_to_proto(schema.with_metadata({SCHEMA_ID: str(schema_id).encode()}))


def message_bytes_from(request: pb.ReadRowsRequest) -> int:
    """0: about 1 MiB. Raises FieldInvalid."""
    asked = request.max_message_bytes
    if asked and not MIN_MESSAGE_BYTES <= asked <= LIMIT_BYTES:
        raise FieldInvalid(
            f"{MIN_MESSAGE_BYTES} to {LIMIT_BYTES} bytes, 0 means about 1 MiB", field="max_message_bytes"
        )
    return asked


def header(pinned: Pinned) -> pb.ReadRowsResponse:
    return pb.ReadRowsResponse(
        header=pb.ReadHeader(
            schema=schema_of(pinned.schema, pinned.schema_id),
            version=pinned.version,
            table_uid=pinned.view.row.uid,
        )
    )


def row_messages(
    stream: RowStream, chunk: Chunk, request: pb.ReadRowsRequest, max_bytes: int
) -> Iterator[pb.ReadRowsResponse]:
    """The chunk's rows, each message with the token of the place after it. Blocking (CPU)."""
    if not chunk.batch.num_rows:
        return
    delivered = 0
    for batch in batches_to_proto(chunk.batch, request.encoding, request.compression, max_message_bytes=max_bytes):
        delivered += batch.row_count
        yield pb.ReadRowsResponse(
            batch=batch, resume_token=stream.token(chunk, delivered), fraction_done=chunk.fraction
        )


def heartbeat(now_us: int) -> pb.ReadRowsResponse:
    return pb.ReadRowsResponse(heartbeat=types_pb2.Heartbeat(time=timestamp_proto(now_us)))


def end(row_count: int) -> pb.ReadRowsResponse:
    return pb.ReadRowsResponse(end=pb.ReadEnd(row_count=row_count), fraction_done=1.0)


def split_file_responses(found: SplitFiles) -> Iterator[pb.ListSplitFilesResponse]:
    """The files, then the end. Schema and residual come with each file."""
    schema = schema_of(found.schema, found.schema_id)
    residual = predicate_to(found.residual) if found.residual is not None else None
    for file in found.files:
        yield _file(file, schema, residual)
    yield pb.ListSplitFilesResponse(end=pb.SplitFilesEnd(file_count=len(found.files)))


def _file(file: SplitFile, schema: types_pb2.Schema, residual: types_pb2.Predicate | None) -> pb.ListSplitFilesResponse:
    return pb.ListSplitFilesResponse(
        file_id=file.id,
        url=file.url,
        size_bytes=file.size_bytes,
        expire_time=None if file.expire_us is None else timestamp_proto(file.expire_us),
        row_count=file.row_count,
        schema=schema,
        residual=residual,
    )
