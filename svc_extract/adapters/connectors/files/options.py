"""The options of file sources, from their proto message."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from millrace.errors import FieldInvalid, FieldRequired
from millrace.extract.v1 import extract_pb2 as pb
from svc_extract.domain.parsing.blocks import Encoding
from svc_extract.domain.parsing.columns import Naming


class Format(StrEnum):
    CSV = "csv"
    JSON_LINES = "jsonl"
    PARQUET = "parquet"


_FORMATS = {
    pb.FILE_FORMAT_CSV: Format.CSV,
    pb.FILE_FORMAT_JSON_LINES: Format.JSON_LINES,
    pb.FILE_FORMAT_PARQUET: Format.PARQUET,
}
_SUFFIXES = {".csv": Format.CSV, ".jsonl": Format.JSON_LINES, ".ndjson": Format.JSON_LINES, ".parquet": Format.PARQUET}
_NO_RENAME: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesOptions:
    """`format` None: by each file's name. `columns`: names when files have no header line. `nulls`: texts that mean NULL."""

    path: str
    format: Format | None = None
    delimiter: str = ","
    quote: str = '"'
    columns: tuple[str, ...] = ()
    nulls: tuple[str, ...] = ("",)
    encoding: Encoding = field(default_factory=Encoding)
    naming: Naming = field(default_factory=Naming)
    poll_s: float = 1.0

    def format_of(self, name: str) -> Format:
        """Raises FieldInvalid when the name does not say it."""
        plain = name.lower().removesuffix(".gz")
        found = self.format or next((one for suffix, one in _SUFFIXES.items() if plain.endswith(suffix)), None)
        if found is None:
            raise FieldInvalid(
                f"`{name}`: the name does not tell the format", field="files.format", hint="set `format`"
            )
        return found


def options_from(message: pb.FilesConnector, *, where: str = "files") -> FilesOptions:
    """Raises FieldRequired and FieldInvalid below `where`."""
    if not message.path:
        raise FieldRequired("a path or glob is needed", field=f"{where}.path")
    csv = message.csv
    delimiter = _character(csv.delimiter or ",", f"{where}.csv.delimiter")
    quote = _character(csv.quote or '"', f"{where}.csv.quote")
    if delimiter == quote:
        raise FieldInvalid("delimiter and quote are the same", field=f"{where}.csv.quote")
    if len(set(csv.columns)) != len(csv.columns):
        raise FieldInvalid("a column is named twice", field=f"{where}.csv.columns")
    return FilesOptions(
        path=message.path,
        format=_FORMATS.get(message.format),
        delimiter=delimiter,
        quote=quote,
        columns=tuple(csv.columns),
        nulls=tuple(csv.null_values) or ("",),
        encoding=Encoding.named(csv.encoding),
        naming=Naming(dict(csv.rename) or _NO_RENAME, csv.ignore_extra_columns),
        poll_s=poll_interval_s(message, where),
    )


def poll_interval_s(message: pb.FilesConnector | pb.SqlConnector, field: str) -> float:
    """1 s when unset. Raises FieldInvalid outside of 0.1 to 3,600 s."""
    if not message.HasField("poll_interval"):
        return 1.0
    seconds = message.poll_interval.seconds + message.poll_interval.nanos / 1e9
    if not 0.1 <= seconds <= 3600:
        raise FieldInvalid("0.1 to 3,600 s", field=f"{field}.poll_interval")
    return float(seconds)


def _character(text: str, field: str) -> str:
    if len(text) != 1 or not text.isascii() or text in "\r\n\0":
        raise FieldInvalid("one ASCII character, not a line break", field=field)
    return text
