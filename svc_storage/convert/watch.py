"""WatchTable between proto and domain."""

from __future__ import annotations

import pyarrow as pa

from millrace.storage.v1 import storage_pb2 as pb
from millrace.wire.clock import timestamp_proto
from millrace.wire.schema import SCHEMA_ID
from svc_storage.convert.requests import heartbeat_s
from svc_storage.convert.tables import version_to_proto
from svc_storage.domain.reading.watch import Covered, Landed, TableNews, WatchWish


def wish_from(request: pb.WatchTableRequest) -> WatchWish:
    """Raises FieldInvalid."""
    return WatchWish(
        after=request.after_version if request.HasField("after_version") else None,
        data_changes_only=request.data_changes_only,
        coalesce=request.coalesce,
        heartbeat_s=heartbeat_s(request),
    )


def response(news: TableNews, now_us: int) -> pb.WatchTableResponse:
    match news:
        case Landed(event, schema, schema_id):
            return pb.WatchTableResponse(version=version_to_proto(event, _clients(schema, schema_id)))
        case Covered(version, oldest):
            bookmark = pb.Bookmark(version=version, oldest_version=oldest, time=timestamp_proto(now_us))
            return pb.WatchTableResponse(bookmark=bookmark)
    return pb.WatchTableResponse(deleted=pb.TableDeleted(table_uid=news.uid))


def _clients(schema: pa.Schema | None, schema_id: int) -> pa.Schema | None:
    """Without storage's own columns."""
    if schema is None:
        return None
    fields = [field for field in schema if not field.name.startswith("_")]
    return pa.schema(fields, metadata={SCHEMA_ID: str(schema_id).encode()})
