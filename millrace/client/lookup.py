"""Rows by primary key."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import pyarrow as pa

from millrace import errors
from millrace.client.channel import Connection, call
from millrace.client.rows import Rows, batches_of
from millrace.storage.v1 import lookup_pb2, storage_pb2, storage_pb2_grpc
from millrace.types.v1 import types_pb2
from millrace.wire.batch import batch_to_proto, read_batch
from millrace.wire.schema import schema_from_proto

LOOKUP_DEADLINE_S = 5.0
MAX_KEYS = 1_000
"""Of one call; more are asked for in several, all at the version of the first."""

Keys: TypeAlias = "Rows | Iterable[Any]"
"""A table or frame of the key's columns, one dict per key, one tuple in the key's order, or, where the key is one column, its values."""


@dataclass(frozen=True, slots=True)
class Found:
    """`rows`: of the keys that were found, in the order of the keys. `found`: for each key. `version`: that was looked into."""

    rows: pa.Table = field(repr=False)
    found: Sequence[bool]
    version: int

    def to_pylist(self) -> list[dict[str, Any] | None]:
        """One dict per key, None for a key that is not there."""
        rows = iter(self.rows.to_pylist())
        return [next(rows) if there else None for there in self.found]

    def __len__(self) -> int:
        return int(self.rows.num_rows)


@dataclass(frozen=True, slots=True)
class KeyColumns:
    """The primary key of a table that has this uid."""

    schema: pa.Schema
    uid: str


async def key_columns(connection: Connection, name: str) -> KeyColumns:
    """Raises TableNotFound, NoPrimaryKey."""
    stub = storage_pb2_grpc.StorageServiceStub(connection.channel)
    request = storage_pb2.GetTableRequest(name=name)
    table = (await call(connection, stub.GetTable, request, resource=name, answer=storage_pb2.GetTableResponse)).table
    if not table.primary_key:
        raise errors.NoPrimaryKey("the table has no primary key", field="table", hint="read it with `where`")
    schema = schema_from_proto(table.schema)
    return KeyColumns(pa.schema([schema.field(column).remove_metadata() for column in table.primary_key]), table.uid)


async def lookup(
    connection: Connection,
    name: str,
    key: KeyColumns,
    keys: Keys,
    *,
    columns: Sequence[str] = (),
    version: int | None = None,
    as_of: dt.datetime | None = None,
    deadline_s: float = LOOKUP_DEADLINE_S,
) -> Found:
    """Raises TableRecreated (the key may be another now), VersionExpired, ResultTooLarge, SchemaMismatch."""
    tables: list[pa.Table] = []
    found: list[bool] = []
    for part in await asyncio.to_thread(lambda: list(_parts(keys, key.schema))):
        request = lookup_pb2.LookupRowsRequest(
            table=name,
            table_uid=key.uid,
            keys=batch_to_proto(part),
            columns=columns,
            encoding=types_pb2.ENCODING_ARROW,
        )
        if version is not None:
            request.version = version
        elif as_of is not None:
            request.as_of.FromDatetime(as_of)
        stub = storage_pb2_grpc.StorageServiceStub(connection.channel)
        told = await call(
            connection,
            stub.LookupRows,
            request,
            resource=name,
            deadline_s=deadline_s,
            answer=lookup_pb2.LookupRowsResponse,
        )
        version = told.version
        schema = schema_from_proto(told.schema)
        tables.append(pa.Table.from_batches([read_batch(told.rows, schema)], schema))
        found += told.found
    if version is None:
        raise errors.FieldInvalid("no key to look up", field="keys", hint="give at least one")
    return Found(pa.concat_tables(tables), found, version)


def _parts(keys: Keys, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    whole = pa.Table.from_batches(batches_of(_as_rows(keys, schema), schema), schema).combine_chunks()
    for start in range(0, whole.num_rows, MAX_KEYS):
        yield whole.slice(start, MAX_KEYS).combine_chunks().to_batches()[0]


def _as_rows(keys: Any, schema: pa.Schema) -> Any:
    """Values and tuples as dicts; whatever else holds rows is left to `batches_of`."""
    if isinstance(keys, Mapping) or hasattr(keys, "__arrow_c_stream__") or hasattr(keys, "__dataframe__"):
        return keys
    if isinstance(keys, (str, bytes)) or not isinstance(keys, Iterable):
        keys = [keys]
    given = list(keys)
    if all(isinstance(key, Mapping) or hasattr(key, "__arrow_c_array__") for key in given):
        return given
    tuples = [key if isinstance(key, tuple) else (key,) for key in given]
    if any(len(key) != len(schema) for key in tuples):
        raise errors.FieldInvalid(
            f"a key is ({', '.join(schema.names)})", field="keys", hint="give a tuple for each key"
        )
    return [dict(zip(schema.names, key, strict=True)) for key in tuples]
