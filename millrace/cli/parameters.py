"""`--param name=value` and `--version table=number`, as the command line writes them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import click
import pyarrow as pa

from millrace.arrow.names import parse_type
from millrace.cli.options import Settings
from millrace.errors import MillraceError
from millrace.types.v1 import types_pb2
from millrace.wire.values import value_to_proto

_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][-+]?\d+)?", re.ASCII)


def params_of(texts: Iterable[str]) -> Mapping[str, types_pb2.Value]:
    """`name=value` guesses NULL, true, whole numbers, numbers, else text; `name:type=value` says the type. Raises UsageError."""
    found: dict[str, types_pb2.Value] = {}
    for text in texts:
        head, equals, value = text.partition("=")
        name, colon, kind = head.partition(":")
        if not equals or not name.isidentifier():
            raise click.UsageError(
                f"`{text}` is no parameter\nwrite --param name=value, or --param day:date=2013-07-08"
            )
        found[name] = _typed(name, kind, value) if colon else _guessed(value)
    return found


def _guessed(text: str) -> types_pb2.Value:
    if text in ("NULL", "null"):
        return types_pb2.Value(null=types_pb2.Null())
    if text in ("true", "false"):
        return types_pb2.Value(bool=text == "true")
    if text.isascii() and text.lstrip("-").isdigit() and len(text) < 19:
        return types_pb2.Value(int=int(text))
    if _NUMBER.fullmatch(text):
        return types_pb2.Value(float=float(text))
    return types_pb2.Value(string=text)


def _typed(name: str, kind: str, text: str) -> types_pb2.Value:
    try:
        arrow, _ = parse_type(kind)
    except MillraceError as error:
        raise click.UsageError(f"--param {name}: {error.message}\n{error.hint}") from error
    try:
        return value_to_proto(pa.array([text]).cast(arrow)[0])
    except (pa.ArrowException, MillraceError) as error:
        raise click.UsageError(f"--param {name}: `{text}` is no {kind}\nwrite it as ISO 8601 or as digits") from error


def versions_of(settings: Settings, texts: Iterable[str]) -> Mapping[str, int]:
    """`table=number` by full name; a bare number is for the key "" (the one table that the query reads). Raises UsageError."""
    found: dict[str, int] = {}
    for text in texts:
        name, equals, number = text.rpartition("=")
        if not number.isdigit() or (equals and not name):
            raise click.UsageError(f"`{text}` is no version\nwrite --version 12, or --version flights=12")
        found[settings.full("tables", name) if name else ""] = int(number)
    return found
