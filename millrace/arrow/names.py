"""Type names for people and YAML: "int64", "timestamp[UTC]", "decimal(10,2)", "list<int64?>", "string?".

`?` after a type says that NULL is allowed. The name of a zone-less timestamp is "datetime"; "timestamp" alone means UTC.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping

import pyarrow as pa

from millrace.arrow.types import canonical
from millrace.errors import FieldInvalid, UnsupportedType

_NAMES: Mapping[str, pa.DataType] = {
    "bool": pa.bool_(),
    "int8": pa.int8(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "string": pa.string(),
    "binary": pa.binary(),
    "date": pa.date32(),
    "time": pa.time64("us"),
    "datetime": pa.timestamp("us"),
    "timestamp": pa.timestamp("us", "UTC"),
    "duration": pa.duration("us"),
}
_ALIASES: Mapping[str, str] = {
    "boolean": "bool",
    "int": "int64",
    "integer": "int64",
    "bigint": "int64",
    "float": "float64",
    "double": "float64",
    "text": "string",
    "str": "string",
    "bytes": "binary",
}
_SPELLED = {kind: name for name, kind in _NAMES.items() if name != "timestamp"}
_TOKEN = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*|\[[^\]\s]*\]|\(\s*\d+\s*(?:,\s*\d+\s*)?\)|[<>,:?]|\S)")


def name_of(kind: pa.DataType, *, nullable: bool = False) -> str:
    """The name of a type of the table of types. Raises UnsupportedType."""
    return _spell(canonical(kind)) + ("?" if nullable else "")


def _spell(kind: pa.DataType) -> str:
    if kind in _SPELLED:
        return _SPELLED[kind]
    if pa.types.is_timestamp(kind):
        return f"timestamp[{kind.tz}]"
    if pa.types.is_decimal(kind):
        return f"decimal({kind.precision},{kind.scale})"
    if pa.types.is_map(kind):
        return f"map<{_spell(kind.key_type)}, {_spell_field(kind.item_field)}>"
    if pa.types.is_struct(kind):
        return f"struct<{', '.join(f'{child.name}: {_spell_field(child)}' for child in kind.fields)}>"
    return f"list<{_spell_field(kind.value_field)}>"


def _spell_field(field: pa.Field) -> str:
    return _spell(field.type) + ("?" if field.nullable else "")


def parse_type(name: str) -> tuple[pa.DataType, bool]:
    """The type that `name` means, and whether NULL is allowed (a trailing `?`). Raises FieldInvalid, saying what was expected."""
    reader = _Reader(name)
    kind, nullable = reader.type()
    reader.end()
    return canonical(kind), nullable


class _Reader:
    """Reads one type name, left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[str] = _TOKEN.findall(text) if len(text) <= 10_000 else []
        self._at = 0
        self._depth = 0

    def type(self) -> tuple[pa.DataType, bool]:
        word = self._next()
        self._depth += 1
        if self._depth > 17:
            raise self._wrong("nested deeper than 16 levels")
        kind = self._kind(word)
        self._depth -= 1
        return kind, self._accept("?")

    def end(self) -> None:
        if self._at < len(self._tokens):
            raise self._wrong(f"unexpected `{self._tokens[self._at]}`")

    def _kind(self, word: str) -> pa.DataType:
        match word:
            case "list":
                return self._list()
            case "map":
                return self._map()
            case "struct":
                return self._struct()
            case "decimal":
                return self._decimal()
            case "timestamp" if self._peek().startswith("["):
                return self._timestamp()
        known = _NAMES.get(_ALIASES.get(word, word))
        if known is None:
            raise self._unknown(word)
        return known

    def _list(self) -> pa.DataType:
        self._expect("<")
        kind, nullable = self.type()
        self._expect(">")
        return pa.list_(pa.field("item", kind, nullable))

    def _map(self) -> pa.DataType:
        self._expect("<")
        key, _ = self.type()
        self._expect(",")
        value, nullable = self.type()
        self._expect(">")
        return pa.map_(key, pa.field("value", value, nullable))

    def _struct(self) -> pa.DataType:
        fields: list[pa.Field] = []
        self._expect("<")
        while not fields or self._accept(","):
            name = self._next()
            self._expect(":")
            kind, nullable = self.type()
            fields.append(pa.field(name, kind, nullable))
        self._expect(">")
        return pa.struct(fields)

    def _decimal(self) -> pa.DataType:
        digits = [int(number) for number in re.findall(r"\d+", self._next() if self._peek().startswith("(") else "")]
        precision, scale = (*digits, 0)[:2] if digits else (0, 0)
        if not (1 <= precision <= 38 and 0 <= scale <= precision):
            raise self._wrong("write decimal(precision,scale) with 1 to 38 digits, none to all of them after the point")
        return pa.decimal128(precision, scale)

    def _timestamp(self) -> pa.DataType:
        zone = self._next()[1:-1]
        try:
            return canonical(pa.timestamp("us", zone or "UTC"))
        except UnsupportedType as error:
            raise self._wrong(f"`{zone}` is not a time zone, for instance UTC or Europe/Berlin") from error

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _next(self) -> str:
        token = self._peek()
        if not token:
            raise self._wrong("it ends too early")
        self._at += 1
        return token

    def _accept(self, token: str) -> bool:
        found = self._peek() == token
        self._at += found
        return found

    def _expect(self, token: str) -> None:
        if not self._accept(token):
            raise self._wrong(f"expected `{token}`" + (f" before `{self._peek()}`" if self._peek() else " at the end"))

    def _unknown(self, word: str) -> FieldInvalid:
        names = [*_NAMES, *_ALIASES, "decimal", "list", "map", "struct"]
        near = difflib.get_close_matches(word, names, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"types are {', '.join(_NAMES)}, decimal, list, map, struct"
        return FieldInvalid(f"no type is called `{word[:64]}`", hint=hint)

    def _wrong(self, why: str) -> FieldInvalid:
        shown = self._text if len(self._text) <= 80 else f"{self._text[:77]}..."
        return FieldInvalid(
            f"`{shown}` is not a type: {why}", hint='write for instance "decimal(10,2)" or "list<int64?>"'
        )
