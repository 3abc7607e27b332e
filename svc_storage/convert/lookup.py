"""LookupRows between proto and domain."""

from __future__ import annotations

import pyarrow as pa

from millrace.arrow.slices import LIMIT_BYTES
from millrace.errors import FieldInvalid
from millrace.storage.v1 import lookup_pb2 as pb
from millrace.wire.batch import batch_from_proto, batch_to_proto
from millrace.wire.clock import micros_of
from svc_storage.convert.reads import MAX_COLUMNS, schema_of
from svc_storage.domain.reading.lookup import Found, LookupWish, too_large


def wish_from(request: pb.LookupRowsRequest) -> LookupWish:
    """Raises FieldInvalid."""
    if len(request.columns) > MAX_COLUMNS:
        raise FieldInvalid(f"at most {MAX_COLUMNS} columns", field="columns")
    at = request.WhichOneof("at")
    return LookupWish(
        table=request.table,
        table_uid=request.table_uid,
        version=request.version if at == "version" else None,
        as_of_us=micros_of(request.as_of, "as_of") if at == "as_of" else None,
        columns=tuple(request.columns),
    )


def keys_from(request: pb.LookupRowsRequest, schema: pa.Schema) -> pa.RecordBatch:
    """Blocking (CPU). Raises FieldInvalid, SchemaMismatch, ArrowInvalid and their like."""
    return batch_from_proto(request.keys, schema, where="keys")


def response(found: Found, request: pb.LookupRowsRequest) -> pb.LookupRowsResponse:
    """Blocking (CPU). Raises ResultTooLarge, ValueNotRepresentable."""
    rows = batch_to_proto(found.rows, request.encoding, request.compression)
    if rows.ByteSize() > LIMIT_BYTES:
        raise too_large()
    target = found.target
    return pb.LookupRowsResponse(
        version=target.snapshot.version,
        table_uid=target.table.row.uid,
        schema=schema_of(target.schema, target.snapshot.schema_id),
        rows=rows,
        found=found.found,
    )
