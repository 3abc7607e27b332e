"""Settings of storage: MILLRACE_STORAGE_*."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from millrace.server.config import service_env


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    data_dir: Path  # tables, catalog.sqlite, LOCK and store-id; one process at a time
    backend: str = "local"  # local, memory
    direct_files: bool = False  # hand out file:// URLs to callers that prove they see the same disk
    workers: int = 4  # threads for Parquet and log calls, 1–64
    upkeep_interval_ms: int = 500  # how often tables are looked at for compaction, checkpoints and clean-up

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:
        """Raises SettingsError listing every fault."""
        reader = service_env(env, "storage")
        found = cls(
            data_dir=reader.path("DATA_DIR", Path(env.get("MILLRACE_HOME", ".millrace")) / "data"),
            backend=reader.text("BACKEND", "local", choices=("local", "memory")),
            direct_files=reader.boolean("DIRECT_FILES"),
            workers=reader.integer("WORKERS", 4, low=1, high=64),
            upkeep_interval_ms=reader.duration_ms("UPKEEP_INTERVAL", 500, low=50, high=3_600_000),
        )
        reader.done()
        return found
