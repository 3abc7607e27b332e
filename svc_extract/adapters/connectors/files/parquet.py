"""Reads one Parquet file once, whole, in row order. Blocking: on a worker thread."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from millrace.arrow.types import canonical_schema
from millrace.errors import MillraceError, SchemaMismatch, SourceUnavailable
from svc_extract.adapters.connectors.files.listing import Sight
from svc_extract.adapters.connectors.files.options import FilesOptions
from svc_extract.adapters.connectors.files.text import Step
from svc_extract.domain.parsing.arrow_rows import rows_of
from svc_extract.domain.parsing.columns import plan_for

BATCH_ROWS = 16_384


def parquet_schema(sight: Sight) -> pa.Schema:
    """Raises SourceUnavailable when it is not whole (yet) or no Parquet."""
    return _opened(sight).schema_arrow


def parquet_steps(sight: Sight, offset: int, options: FilesOptions, schema: pa.Schema) -> Iterator[Step]:
    """Rows from `offset` on; offsets count rows. Raises SchemaMismatch, SourceUnavailable."""
    file = _opened(sight)
    plan = plan_for(file.schema_arrow.names, options.naming, schema, where=sight.name)
    names = [file.schema_arrow.names[index] for index in plan.sources.values()]
    targets = [schema.names[index] for index in plan.sources]
    at = 0
    for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=names):
        if at + batch.num_rows > offset:
            rows = batch.slice(max(0, offset - at)).select(names).rename_columns(targets)
            first = at + batch.num_rows - rows.num_rows
            parsed = rows_of(rows, schema)
            end = at + batch.num_rows
            yield Step(parsed, range(first + 1, end + 1), end, False)
        at += batch.num_rows


def _opened(sight: Sight) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(sight.path)
        canonical_schema(file.schema_arrow)
    except MillraceError as error:
        raise SchemaMismatch(f"`{sight.name}`: {error.message}", field=error.field) from error
    except (pa.ArrowException, OSError) as error:
        raise SourceUnavailable(f"`{sight.name}` is no Parquet file, or not whole yet") from error
    return file
