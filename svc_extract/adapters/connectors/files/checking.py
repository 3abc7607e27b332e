"""Looks at a file source: which columns it has, and what would go wrong."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import pyarrow as pa
import pyarrow.csv
import pyarrow.json

from millrace.arrow.types import canonical
from millrace.errors import MillraceError, UnsupportedType
from svc_extract.adapters.connectors.files.listing import Roots, Sight
from svc_extract.adapters.connectors.files.options import FilesOptions, Format
from svc_extract.adapters.connectors.files.parquet import parquet_schema, parquet_steps
from svc_extract.adapters.connectors.files.places import Place
from svc_extract.adapters.connectors.files.text import TextFile, open_text
from svc_extract.domain.parsing.parsed import Parsed
from svc_extract.ports import CheckReport, Finding, Guarantee

SAMPLE_BYTES = 256 << 10
_LATER = {"SOURCE_UNAVAILABLE"}


def check_files(roots: Roots, options: FilesOptions, schema: pa.Schema) -> CheckReport:
    """Reads the first block of the first file. Blocking."""
    findings: list[Finding] = []
    columns: pa.Schema | None = None
    try:
        sights = roots.sights(options.path)
        if not sights:
            findings.append(Finding(False, "SOURCE_UNAVAILABLE", "files.path", "no file matches yet"))
        else:
            columns = discovered(sights[0], options)
            findings.extend(_sampled(sights[0], options, schema))
    except MillraceError as error:
        fatal = error.reason not in _LATER
        findings.append(Finding(fatal, error.reason, error.field or "files.path", _sentence(error)))
    return CheckReport(tuple(findings), columns, Guarantee.REPLAYABLE)


def _sentence(error: MillraceError) -> str:
    return f"{error.message} ({error.hint})" if error.hint else error.message


def _sampled(sight: Sight, options: FilesOptions, schema: pa.Schema) -> list[Finding]:
    place = Place(sight.device, sight.inode)
    if options.format_of(sight.name) is Format.PARQUET:
        sample = [step.parsed for step in islice(parquet_steps(sight, 0, options, schema), 1)]
    else:
        with open_text(sight, place, options, schema) as file:
            sample = [step.parsed for step in islice(file.steps(final=False), 1)]
    return [_bad_rows(parsed) for parsed in sample if parsed.letters]


def _bad_rows(parsed: Parsed) -> Finding:
    kinds = Counter(f"{one.reason} {one.field}".strip() for one in parsed.letters)
    shown = ", ".join(f"{count} × {kind}" for kind, count in kinds.most_common(5))
    message = f"{len(parsed.letters)} of the first {parsed.records} records would be dead letters: {shown}"
    return Finding(False, "ROW_INVALID", "files.path", message)


def discovered(sight: Sight, options: FilesOptions) -> pa.Schema | None:
    """The columns with the types that a sample has; None when there is nothing to look at."""
    if options.format_of(sight.name) is Format.PARQUET:
        found = parquet_schema(sight)
    else:
        with open_text(sight, Place(sight.device, sight.inode), options, pa.schema([])) as file:
            found = _from_sample(file, options)
    if found is None:
        return None
    return pa.schema([_field(field, options) for field in found])


def _field(field: pa.Field, options: FilesOptions) -> pa.Field:
    name = options.naming.target(field.name)
    try:
        return pa.field(name, canonical(field.type), nullable=True)
    except UnsupportedType:
        return pa.field(name, pa.string(), nullable=True)


def _from_sample(file: TextFile, options: FilesOptions) -> pa.Schema | None:
    data = file.sample(SAMPLE_BYTES)
    if not data.strip():
        return None
    try:
        if options.format_of(file.sight.name) is Format.JSON_LINES:
            return pa.json.read_json(pa.py_buffer(data)).schema
        return pa.csv.read_csv(
            pa.py_buffer(data),
            read_options=pa.csv.ReadOptions(column_names=list(options.columns) or None),
            parse_options=pa.csv.ParseOptions(
                delimiter=options.delimiter,
                quote_char=options.quote,
                newlines_in_values=True,
                invalid_row_handler=lambda row: "skip",
            ),
            convert_options=pa.csv.ConvertOptions(null_values=list(options.nulls), strings_can_be_null=True),
        ).schema
    except pa.ArrowException:
        return None
