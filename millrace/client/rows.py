"""Rows as programs have them: taken in (pandas, polars, Arrow, lists of dicts), and given out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast

import pyarrow as pa

from millrace import errors
from millrace.arrow.conform import conform

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl


class ArrowStream(Protocol):
    """What can show itself as Arrow (the PyCapsule interface): polars, DuckDB, pyarrow, pandas, ..."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...


Rows: TypeAlias = "pa.Table | pa.RecordBatch | pd.DataFrame | ArrowStream | Mapping[str, Any] | Iterable[Any]"
"""A table, frame or batch; columns by name; or an iterable of batches, or of one dict per row."""

_CHUNK_ROWS = 65_536


def batches_of(rows: Rows, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """`rows` in `schema`, batch by batch, lazily where it is an iterator. Raises SchemaMismatch and the like."""
    for batch in _arrow_batches(rows, schema):
        for at in range(0, batch.num_rows, _CHUNK_ROWS):
            yield conform(batch.slice(at, _CHUNK_ROWS), schema)


def raw_batches_of(rows: Rows, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """`rows` batch by batch with all of their columns; Python values of those that `schema` lacks as the types that they seem to be."""
    for batch in _arrow_batches(rows, schema, guess=True):
        for at in range(0, batch.num_rows, _CHUNK_ROWS):
            yield batch.slice(at, _CHUNK_ROWS)


def _arrow_batches(rows: Any, schema: pa.Schema, *, guess: bool = False) -> Iterator[pa.RecordBatch]:
    if isinstance(rows, pa.RecordBatch):
        yield rows
    elif type(rows).__module__.partition(".")[0] == "pandas":
        yield from pa.Table.from_pandas(rows, preserve_index=False).to_batches()
    elif hasattr(rows, "__arrow_c_stream__"):
        yield from pa.RecordBatchReader.from_stream(rows)
    elif isinstance(rows, Mapping):
        yield pa.RecordBatch.from_pydict({name: _column(name, values, schema, guess) for name, values in rows.items()})
    elif isinstance(rows, Iterable) and not isinstance(rows, (str, bytes)):
        yield from _from_iterable(rows, schema, guess)
    else:
        raise errors.FieldInvalid(
            f"a {type(rows).__name__} holds no rows", hint="give a table, a frame, batches or a list of dicts"
        )


def _from_iterable(rows: Iterable[Any], schema: pa.Schema, guess: bool) -> Iterator[pa.RecordBatch]:
    chunk: list[Mapping[str, Any]] = []
    for item in rows:
        if isinstance(item, Mapping) and not hasattr(item, "__arrow_c_stream__"):
            chunk.append(item)
            if len(chunk) >= _CHUNK_ROWS:
                yield _from_dicts(chunk, schema, guess)
                chunk = []
        else:
            yield from _arrow_batches(item, schema, guess=guess)
    if chunk:
        yield _from_dicts(chunk, schema, guess)


def _from_dicts(rows: list[Mapping[str, Any]], schema: pa.Schema, guess: bool) -> pa.RecordBatch:
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.RecordBatch.from_pydict(
        {name: _column(name, [row.get(name) for row in rows], schema, guess) for name in names}
    )


def _column(name: str, values: Any, schema: pa.Schema, guess: bool) -> pa.Array:
    """Python values as the table's type; what is no column of it is guessed, or left to `conform` to name."""
    at = schema.get_field_index(name)
    try:
        if at >= 0:
            return pa.array(values, schema.field(at).type)
        return pa.array(values) if guess else pa.nulls(len(values))
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        kind = f"is {schema.field(at).type}" if at >= 0 else "has values of several types"
        raise errors.SchemaMismatch(f"column `{name}` {kind}; a value is not", field=name) from error


@dataclass(frozen=True, slots=True)
class Result:
    """Rows that were read. `versions`: table full name -> version. `truncated`: `max_rows` cut it.

    The conversions take time and memory in proportion to the rows; in async programs, run large ones in a thread."""

    table: pa.Table = field(repr=False)
    versions: Mapping[str, int]
    truncated: bool = False

    def to_arrow(self) -> pa.Table:
        return self.table

    def to_pandas(self) -> pd.DataFrame:
        return cast("pd.DataFrame", self.table.to_pandas())

    def to_polars(self) -> pl.DataFrame:
        import polars

        return cast("pl.DataFrame", polars.from_arrow(self.table))

    def to_pylist(self) -> list[dict[str, Any]]:
        """One dict per row."""
        return cast("list[dict[str, Any]]", self.table.to_pylist())

    def __len__(self) -> int:
        return int(self.table.num_rows)
