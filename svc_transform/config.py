"""Settings of transform: MILLRACE_TRANSFORM_*."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from millrace.engine.fetch import is_origin
from millrace.server.config import service_env


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    data_root: (
        Path | None
    )  # storage's data folder when it is on this disk: files are opened in place; None: rows are streamed
    spool_dir: Path  # spilled data, and files and rows of versions that are not on this disk; emptied at each start
    stream_mb: int = 8192  # disk for the latter
    store_endpoints: tuple[
        str, ...
    ] = ()  # the object store, http(s)://host[:port]; files are fetched from nowhere else
    lease_ttl_ms: int = 15_000  # how long a worker that died keeps its transform, 5,000–60,000
    threads: int = 2  # of the engine, per query
    memory_mb: int = 2048  # of all DuckDB instances in use; each gets half of what is free, beyond that it spills

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:
        """Raises SettingsError listing every fault."""
        home = Path(env.get("MILLRACE_HOME", ".millrace"))
        reader = service_env(env, "transform")
        found = cls(
            data_root=reader.path("DATA_ROOT", home / "data"),
            spool_dir=reader.path("SPOOL_DIR", home / "spool" / "transform"),
            stream_mb=reader.integer("STREAM_MB", 8192, low=64, high=1 << 24),
            store_endpoints=reader.words("STORE_ENDPOINTS", filter(None, [env.get("MILLRACE_STORAGE_S3_ENDPOINT")])),
            lease_ttl_ms=reader.duration_ms("LEASE_TTL", 15_000, low=5_000, high=60_000),
            threads=reader.integer("THREADS", 2, low=1, high=256),
            memory_mb=reader.integer("MEMORY_MB", 2048, low=128, high=1_048_576),
        )
        for wrong in (address for address in found.store_endpoints if not is_origin(address)):
            reader.fault("STORE_ENDPOINTS", f"has {wrong!r}; http(s)://host[:port] is expected")
        reader.done()
        return found
