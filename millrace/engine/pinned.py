"""What the engine is given: tables pinned to a version, and how much a query may use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from millrace.engine.names import TableRef


@dataclass(frozen=True, slots=True)
class PinnedTable:
    """The rows of one table at one version, as local files that never change.

    `name`: full name. `schema`: the columns of the view, in order; a file that lacks one gives NULL. `after_version`: only what
    was added since (None: everything). `files`: absolute paths, already checked against the data root; none is an empty table.
    `event_time_column`: empty when the table has none. `hold`: as long as it is there, `files` are."""

    name: str
    uid: str
    version: int
    schema: pa.Schema
    files: tuple[str, ...] = ()
    after_version: int | None = None
    row_count: int = 0
    size_bytes: int = 0
    event_time_column: str = ""
    hold: object = field(default=None, compare=False, repr=False)

    @property
    def key(self) -> tuple[object, ...]:
        """Equal keys mean equal rows and columns."""
        return (self.name, self.uid, self.version, self.after_version, tuple(self.schema.names), self.files)


Tables = Mapping[TableRef, PinnedTable]


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One SELECT that passed the sandbox, or that was made by our own compiler. `params`: Python values by name."""

    sql: str
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the engine of one process may use."""

    workers: int = 2
    """Threads that run DuckDB calls; as many queries make progress at once."""
    threads: int = 2
    """Threads inside one DuckDB instance."""
    memory_mb: int = 1024
    """Of all DuckDB instances in use together. Each gets half of what is free when it is opened, at least 64; beyond its share it spills to
    `temp_directory`, then MEMORY_LIMIT. A query waits while no share is left."""
    spill_mb: int = 4096
    """Disk that all instances in use may spill to, shared out as memory is."""
    pool_size: int = 16
    """Instances kept open; each holds the views of one set of versions."""
    max_open: int = 64
    """Results that may be open at once; more are TOO_MANY_STREAMS."""
    deadline_s: float = 300.0
    """Longest a query may run when the caller names no time."""
    batch_rows: int = 32_768
    """Rows per Arrow batch handed out."""
