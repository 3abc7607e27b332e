"""An answer's rows as a dashboard shows them: cut buckets left out, keys found, CSV written."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

import pyarrow as pa
import pyarrow.compute as pc

from svc_viz.domain.measures import UNITS
from svc_viz.domain.numbers import cell_text
from svc_viz.domain.zones import iso_text
from svc_viz.ports import Answer, FieldSpec, Question

Cell = object
NO_FIELD = FieldSpec()


@dataclass(frozen=True, slots=True)
class TableColumn:
    """One column for people. `numeric` columns stand right."""

    name: str
    label: str
    numeric: bool


def trimmed(answer: Answer, question: Question) -> Answer:
    """Without the buckets that the range's start cuts: half an hour of flights is not a low bar."""
    bucket = next((one for one in question.dimensions if one.kind == "bucket"), None)
    high = answer.event_time_high
    if (
        bucket is None
        or not question.last_s
        or high is None
        or not answer.rows.num_rows
        or bucket.name not in answer.rows.column_names
    ):
        return answer
    first = high.timestamp() - (question.last_s - bucket.count * UNITS[bucket.unit])
    times = answer.rows[bucket.name]
    if not pa.types.is_timestamp(times.type):
        return answer
    bound = pa.scalar(datetime.fromtimestamp(first, high.tzinfo), times.type)
    rows = answer.rows.filter(pc.greater_equal(times, bound))
    return Answer(rows, answer.versions, answer.commit_time, answer.event_time_high, answer.elapsed_ms)


def values(rows: pa.Table, name: str) -> list[Cell]:
    """A column as Python values; none at all for a column that is not there."""
    return rows[name].to_pylist() if name in rows.column_names else []


def floats(rows: pa.Table, name: str) -> list[float]:
    """A numeric column; NULL is NaN, a gap."""
    return [number(value) for value in values(rows, name)]


def number(value: Cell) -> float:
    """NaN for whatever is no number."""
    if isinstance(value, bool) or value is None:
        return math.nan
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.nan


def label_of(name: str, fields: Mapping[str, FieldSpec]) -> str:
    """How a column is called: its field's label with the unit, else its name in words."""
    spec = fields.get(name, NO_FIELD)
    label = spec.label or ("Time" if name == "time" else name.replace("_", " ").capitalize())
    return f"{label} ({spec.unit})" if spec.unit and spec.unit != "%" else label


def is_numeric(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def columns_of(rows: pa.Table, names: Sequence[str], fields: Mapping[str, FieldSpec]) -> tuple[TableColumn, ...]:
    chosen = [name for name in names if name in rows.column_names] or rows.column_names
    return tuple(TableColumn(name, label_of(name, fields), is_numeric(rows.schema.field(name).type)) for name in chosen)


def text_rows(
    rows: pa.Table, columns: Sequence[TableColumn], fields: Mapping[str, FieldSpec], zone: str, unit: str = "h"
) -> list[list[str]]:
    """Every row's cells as text, in the zone."""
    data = [values(rows, column.name) for column in columns]
    specs = [fields.get(column.name, NO_FIELD) for column in columns]
    return [
        [cell_text(cell, spec, zone, unit) for cell, spec in zip(row, specs, strict=True)]
        for row in zip(*data, strict=True)
    ]


def csv_bytes(rows: pa.Table, zone: str) -> bytes:
    """RFC 4180 with a header line: NULL is empty, times are ISO 8601 in the zone, numbers are exact. Texts that a spreadsheet would run
    as a formula get a leading apostrophe."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(rows.column_names)
    for batch in rows.to_batches(max_chunksize=4096):
        columns = [column.to_pylist() for column in batch.columns]
        writer.writerows([[_csv_cell(cell, zone) for cell in row] for row in zip(*columns, strict=True)])
    return out.getvalue().encode()


def _csv_cell(cell: Cell, zone: str) -> str:
    match cell:
        case None:
            return ""
        case bool():
            return "true" if cell else "false"
        case float():
            return "" if math.isnan(cell) else repr(cell)
        case datetime():
            return iso_text(cell, zone) if cell.tzinfo else cell.isoformat()
        case date():
            return cell.isoformat()
        case bytes():
            return cell.decode("utf-8", "replace")
        case str():
            return f"'{cell}" if cell[:1] in {"=", "+", "-", "@", "\t", "\r"} else cell
    return str(cell)
