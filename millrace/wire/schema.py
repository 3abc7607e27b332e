"""Schemas: `millrace.types.v1.Schema`, `Field`, `DataType` and their Arrow counterparts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pyarrow as pa

from millrace.arrow.types import MAX_NESTING, canonical, canonical_field
from millrace.errors import FieldInvalid
from millrace.types.v1 import types_pb2 as pb

SCHEMA_ID = b"millrace.schema_id"
FIELD_ID = b"millrace.field_id"
DESCRIPTION = b"description"
MAX_FIELDS = 2_000
"""Columns of a schema, items of structs included."""

_SIMPLE: Mapping[int, pa.DataType] = {
    pb.TYPE_KIND_BOOL: pa.bool_(),
    pb.TYPE_KIND_STRING: pa.string(),
    pb.TYPE_KIND_BINARY: pa.binary(),
    pb.TYPE_KIND_DATE: pa.date32(),
    pb.TYPE_KIND_TIME: pa.time64("us"),
    pb.TYPE_KIND_DATETIME: pa.timestamp("us"),
    pb.TYPE_KIND_DURATION: pa.duration("us"),
}
_KIND_OF = {kind: number for number, kind in _SIMPLE.items()}
_WIDTHS: Mapping[int, Mapping[int, pa.DataType]] = {
    pb.TYPE_KIND_INT: {8: pa.int8(), 16: pa.int16(), 32: pa.int32(), 64: pa.int64(), 0: pa.int64()},
    pb.TYPE_KIND_FLOAT: {32: pa.float32(), 64: pa.float64(), 0: pa.float64()},
}
_CHILDREN: Mapping[int, int] = {pb.TYPE_KIND_LIST: 1, pb.TYPE_KIND_MAP: 2}


# -- to proto ----------------------------------------------------------------------------------------------------------
def schema_to_proto(schema: pa.Schema) -> pb.Schema:
    """`schema` with canonical types. Raises UnsupportedType naming the column."""
    schema_id = (schema.metadata or {}).get(SCHEMA_ID, b"0")
    return pb.Schema(fields=[field_to_proto(field) for field in schema], schema_id=int(schema_id))


def field_to_proto(field: pa.Field) -> pb.Field:
    """One column. Metadata that is not UTF-8 stays behind. Raises UnsupportedType."""
    plain = canonical_field(field)
    metadata = dict(plain.metadata or {})
    return pb.Field(
        name=plain.name,
        type=type_to_proto(plain.type),
        nullable=plain.nullable,
        description=_text(metadata.pop(DESCRIPTION, b"")),
        field_id=int(metadata.pop(FIELD_ID, b"0")),
        metadata={_text(key): _text(value) for key, value in metadata.items() if not key.startswith(b"PARQUET:")},
    )


def type_to_proto(kind: pa.DataType) -> pb.DataType:
    """The wire's form of an Arrow type. Raises UnsupportedType."""
    plain, types = canonical(kind), pa.types
    if plain in _KIND_OF:
        return pb.DataType(kind=pb.TypeKind.ValueType(_KIND_OF[plain]))
    if types.is_integer(plain):
        return pb.DataType(kind=pb.TYPE_KIND_INT, bits=plain.bit_width)
    if types.is_floating(plain):
        return pb.DataType(kind=pb.TYPE_KIND_FLOAT, bits=plain.bit_width)
    if types.is_decimal(plain):
        return pb.DataType(kind=pb.TYPE_KIND_DECIMAL, precision=plain.precision, scale=plain.scale)
    if types.is_timestamp(plain):
        return pb.DataType(kind=pb.TYPE_KIND_TIMESTAMP, zone="" if plain.tz == "UTC" else plain.tz)
    return _nested_to_proto(plain)


def _nested_to_proto(plain: pa.DataType) -> pb.DataType:
    if pa.types.is_list(plain):
        return pb.DataType(kind=pb.TYPE_KIND_LIST, children=[field_to_proto(plain.value_field.with_name("item"))])
    if pa.types.is_map(plain):
        key, value = plain.key_field.with_name("key"), plain.item_field.with_name("value")
        return pb.DataType(kind=pb.TYPE_KIND_MAP, children=[field_to_proto(key), field_to_proto(value)])
    return pb.DataType(kind=pb.TYPE_KIND_STRUCT, children=map(field_to_proto, plain.fields))


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", errors="ignore")


# -- from proto --------------------------------------------------------------------------------------------------------
def schema_from_proto(schema: pb.Schema, *, where: str = "schema") -> pa.Schema:
    """The Arrow schema. `where` is the path of `schema` in its request. Raises FieldInvalid and UnsupportedType, naming the path."""
    fields = _fields_from(schema.fields, where)
    twice = _first_double(field.name for field in fields)
    if twice is not None:
        raise FieldInvalid(f"column `{twice}` is there twice", field=f"{where}.fields")
    metadata = {SCHEMA_ID: str(schema.schema_id).encode()} if schema.schema_id else None
    return pa.schema(fields, metadata=metadata)


def field_from_proto(field: pb.Field, *, where: str = "field") -> pa.Field:
    """One column. Raises FieldInvalid and UnsupportedType."""
    return _field_from(field, where, 0)


def type_from_proto(kind: pb.DataType, *, where: str = "type") -> pa.DataType:
    """The Arrow type. Raises FieldInvalid (nonsense in a field) and UnsupportedType (no place in the table of types)."""
    return _type_from(kind, where, 0)


def _fields_from(fields: Iterable[pb.Field], where: str) -> list[pa.Field]:
    found = list(fields)
    if len(found) > MAX_FIELDS:
        raise FieldInvalid(f"{len(found)} columns, at most {MAX_FIELDS} are taken", field=f"{where}.fields")
    return [_field_from(field, f"{where}.fields[{index}]", 0) for index, field in enumerate(found)]


def _field_from(field: pb.Field, where: str, depth: int) -> pa.Field:
    if not field.name:
        raise FieldInvalid("a column needs a name", field=f"{where}.name")
    metadata = {key.encode(): value.encode() for key, value in field.metadata.items()}
    if field.description:
        metadata[DESCRIPTION] = field.description.encode()
    if field.field_id:
        metadata[FIELD_ID] = str(field.field_id).encode()
    return pa.field(
        field.name, _type_from(field.type, f"{where}.type", depth), field.nullable, metadata=metadata or None
    )


def _type_from(kind: pb.DataType, where: str, depth: int) -> pa.DataType:
    if depth > MAX_NESTING:
        raise FieldInvalid(f"nested deeper than {MAX_NESTING} levels", field=where)
    if kind.kind in _SIMPLE:
        return _SIMPLE[kind.kind]
    if kind.kind in _WIDTHS:
        found = _WIDTHS[kind.kind].get(kind.bits)
        if found is None:
            raise FieldInvalid(f"{kind.bits} bits; allowed are {sorted(_WIDTHS[kind.kind])[1:]}", field=f"{where}.bits")
        return found
    if kind.kind == pb.TYPE_KIND_DECIMAL:
        if not (1 <= kind.precision <= 38 and 0 <= kind.scale <= kind.precision):
            raise FieldInvalid("precision is 1 to 38, scale 0 to the precision", field=f"{where}.precision")
        return pa.decimal128(kind.precision, kind.scale)
    if kind.kind == pb.TYPE_KIND_TIMESTAMP:
        return canonical(pa.timestamp("us", kind.zone or "UTC"), where=f"{where}.zone")
    return _nested_from(kind, where, depth)


def _nested_from(kind: pb.DataType, where: str, depth: int) -> pa.DataType:
    if kind.kind not in (pb.TYPE_KIND_LIST, pb.TYPE_KIND_STRUCT, pb.TYPE_KIND_MAP):
        raise FieldInvalid("not a type", field=f"{where}.kind", hint="set `kind`, for instance TYPE_KIND_STRING")
    wanted = _CHILDREN.get(kind.kind)
    count = len(kind.children)
    if (wanted is not None and count != wanted) or not 1 <= count <= MAX_FIELDS:
        raise FieldInvalid(
            f"{count} children; a list has 1, a map 2 (key, value), a struct 1 to {MAX_FIELDS}",
            field=f"{where}.children",
        )
    children = [
        _field_from(child, f"{where}.children[{index}]", depth + 1) for index, child in enumerate(kind.children)
    ]
    if kind.kind == pb.TYPE_KIND_LIST:
        return pa.list_(pa.field("item", children[0].type, children[0].nullable))
    if kind.kind == pb.TYPE_KIND_MAP:
        return pa.map_(children[0].type, pa.field("value", children[1].type, children[1].nullable))
    twice = _first_double(child.name for child in children)
    if twice is not None:
        raise FieldInvalid(f"struct field `{twice}` is there twice", field=f"{where}.children")
    return pa.struct(children)


def _first_double(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
