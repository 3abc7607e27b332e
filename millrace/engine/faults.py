"""DuckDB's errors as ours: no path, no row value, no stack; what to do next instead."""

from __future__ import annotations

import re

from millrace.errors import (
    ChecksumMismatch,
    DeadlineTooShort,
    DiskFull,
    FileMissing,
    FixRequest,
    MemoryLimit,
    MillraceError,
    ResultTooLarge,
    SqlInvalid,
    Unexpected,
)

TOO_MANY_BUCKETS = "millrace: too many buckets"
"""What compiled queries raise inside the engine when a filled axis would get too long."""

_PATH = re.compile(r"\"?(?:/[\w.@+*\[\]?-]+){2,}\"?")
_VALUES = re.compile(r"'.*'|\(.*\)|(?<![A-Za-z_\d])-?\d[\d.:eE+-]*", re.DOTALL)
_PREFIX = re.compile(r"^(?:[A-Z][\w-]*(?: [\w-]+){0,3}) Error: ?")
_FIRST_WORDS = {
    "Parser": "text",
    "Syntax": "text",
    "Binder": "text",
    "Catalog": "text",
    "Not implemented": "text",
    "Conversion": "value",
    "Invalid Input": "value",
    "Invalid Type": "value",
    "Out of Range": "value",
    "Mismatch Type": "value",
    "Decimal": "value",
    "Sequence": "value",
}


def translate(error: BaseException) -> MillraceError:
    """The error of ours for whatever a DuckDB call, or an Arrow reader over its result, raised."""
    if isinstance(error, MillraceError):
        return error
    whole = str(error)
    kind = whole.split(" Error:", 1)[0].strip() if " Error:" in whole[:60] else ""
    if kind.upper() == "INTERRUPT" or "Interrupted!" in whole:
        return DeadlineTooShort("the query was stopped before it was done", hint="narrow it, or allow more time")
    if kind == "Out of Memory":
        return _out_of_memory(whole)
    if TOO_MANY_BUCKETS in whole:
        return ResultTooLarge(
            "the filled axis would have more than a million buckets", hint="longer buckets or a range"
        )
    if kind in ("Permission", "IO", "HTTP"):
        return _file_trouble(whole)
    if found := next((v for k, v in _FIRST_WORDS.items() if k == kind), None):
        return _sql_invalid(whole, hide_values=found == "value")
    return Unexpected("the query engine failed in a way it should not")


def is_fatal(error: BaseException) -> bool:
    """True when the instance must not be used again."""
    return str(error).startswith(("FATAL", "INTERNAL", "Fatal", "Internal"))


def _out_of_memory(whole: str) -> FixRequest:
    if "temp_directory" in whole or "max_temp_directory_size" in whole:
        return MemoryLimit("the query needs more memory and temporary disk than it may use", hint="narrow the query")
    return MemoryLimit("the query needs more memory than it may use", hint="fewer groups, columns or rows")


def _file_trouble(whole: str) -> MillraceError:
    if "No space left" in whole:
        return DiskFull("the disk is full", hint="free room for temporary files")
    if "disabled by configuration" in whole or "No files found" in whole or "No such file" in whole:
        return FileMissing("a file of the version is gone", hint="ask again without a pinned version")
    return ChecksumMismatch("a file of the version cannot be read")


def _sql_invalid(whole: str, *, hide_values: bool) -> SqlInvalid:
    first = whole.split("\n\n", 1)[0].split("\nLINE", 1)[0]
    plain = _PATH.sub("…", _PREFIX.sub("", first))
    if hide_values:
        plain = _VALUES.sub("…", plain)
    return SqlInvalid(" ".join(plain.split())[:500])
