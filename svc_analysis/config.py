"""Settings of analysis: MILLRACE_ANALYSIS_*."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from millrace.engine.fetch import is_origin
from millrace.engine.pinned import Limits
from millrace.server.config import service_env


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    data_dir: (
        Path  # storage's data folder, for reading files in place; rows are streamed where it is not on this machine
    )
    work_dir: Path  # spilled and streamed data; what a dead process left there is removed at start
    workers: int = 2  # DuckDB calls at once, 1–64
    threads: int = 2  # threads inside one DuckDB instance, 1–64
    memory_mb: int = (
        1024  # memory of all DuckDB instances in use; each gets half of what is free, beyond that it spills
    )
    spill_mb: int = 4096  # disk that they may spill to
    stream_mb: int = 8192  # disk for files and rows of versions that cannot be opened in place
    store_endpoints: tuple[
        str, ...
    ] = ()  # the object store, http(s)://host[:port]; files are fetched from nowhere else
    pool_size: int = 16  # DuckDB instances kept open
    max_open: int = 64  # results open at once
    query_limit_ms: int = 300_000  # longest a query may run when the caller names no deadline
    series_limit: int = 100_000  # most series of one forecast

    def limits(self) -> Limits:
        """What the engine may use."""
        return Limits(
            workers=self.workers,
            threads=self.threads,
            memory_mb=self.memory_mb,
            spill_mb=self.spill_mb,
            pool_size=self.pool_size,
            max_open=self.max_open,
            deadline_s=self.query_limit_ms / 1000,
        )

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:
        """Raises SettingsError listing every fault."""
        reader = service_env(env, "analysis")
        home = Path(env.get("MILLRACE_HOME", ".millrace"))
        found = cls(
            data_dir=reader.path("DATA_DIR", Path(env.get("MILLRACE_STORAGE_DATA_DIR", home / "data"))),
            work_dir=reader.path("WORK_DIR", home / "tmp"),
            workers=reader.integer("WORKERS", 2, low=1, high=64),
            threads=reader.integer("THREADS", 2, low=1, high=64),
            memory_mb=reader.integer("MEMORY_MB", 1024, low=64, high=1 << 20),
            spill_mb=reader.integer("SPILL_MB", 4096, low=0, high=1 << 24),
            stream_mb=reader.integer("STREAM_MB", 8192, low=64, high=1 << 24),
            store_endpoints=reader.words("STORE_ENDPOINTS", filter(None, [env.get("MILLRACE_STORAGE_S3_ENDPOINT")])),
            pool_size=reader.integer("POOL_SIZE", 16, low=1, high=1024),
            max_open=reader.integer("MAX_OPEN", 64, low=1, high=10_000),
            query_limit_ms=reader.duration_ms("QUERY_LIMIT", 300_000, low=100, high=86_400_000),
            series_limit=reader.integer("SERIES_LIMIT", 100_000, low=1, high=10_000_000),
        )
        for wrong in (address for address in found.store_endpoints if not is_origin(address)):
            reader.fault("STORE_ENDPOINTS", f"has {wrong!r}; http(s)://host[:port] is expected")
        reader.done()
        return found
