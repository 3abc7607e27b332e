"""Settings of storage: MILLRACE_STORAGE_*."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from millrace.server.config import service_env
from millrace.server.settings import Env, Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Settings:
    """Where the bucket is and how to get in. Keys are references: `env:NAME`, or `file:/path`, which may change at any time."""

    url: str = ""  # s3://bucket/prefix
    endpoint: str = ""  # https://host:port of a store that is not Amazon's
    region: str = "us-east-1"
    allow_http: bool = False  # for a store on this machine
    access_key: str = ""  # reference; both empty: the role of the machine or pod
    secret_key: str = ""  # reference
    session_token: str = ""  # reference
    environment: Mapping[str, Secret] = field(default_factory=dict)  # what the `env:` references name

    @classmethod
    def read(cls, reader: Env, env: Mapping[str, str], *, needed: bool) -> Self:
        found = cls(
            url=reader.text("S3_URL", None if needed else ""),
            endpoint=reader.text("S3_ENDPOINT", ""),
            region=reader.text("S3_REGION", "us-east-1"),
            allow_http=reader.boolean("S3_ALLOW_HTTP"),
            access_key=_reference(reader, "S3_ACCESS_KEY", env),
            secret_key=_reference(reader, "S3_SECRET_KEY", env),
            session_token=_reference(reader, "S3_SESSION_TOKEN", env),
            environment={name: Secret(env[name]) for name in _named(reader) if name in env},
        )
        if found.url and not (found.url.startswith("s3://") and found.url[5:].split("/")[0]):
            reader.fault("S3_URL", "is not s3://bucket/prefix")
        if bool(found.access_key) != bool(found.secret_key):
            reader.fault("S3_ACCESS_KEY", "and S3_SECRET_KEY go together")
        return found


def _named(reader: Env) -> list[str]:
    """The environment variables that the references name."""
    values = (reader.text(name, "") for name in ("S3_ACCESS_KEY", "S3_SECRET_KEY", "S3_SESSION_TOKEN"))
    return [value.removeprefix("env:") for value in values if value.startswith("env:")]


def _reference(reader: Env, name: str, env: Mapping[str, str]) -> str:
    """What is not a reference is never repeated: it may be the key itself."""
    value = reader.text(name, "")
    kind, _, rest = value.partition(":")
    if not value or (kind == "file" and rest.startswith("/")):
        return value
    if kind != "env" or not rest:
        reader.fault(name, "is not a reference: env:NAME or file:/path, never the key itself")
        return ""
    if rest not in env:
        reader.fault(name, f"names {rest}, which is not set")
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    data_dir: Path  # tables, catalog.sqlite, LOCK and store-id; one process at a time
    backend: str = "local"  # local, memory, s3
    direct_files: bool = False  # hand out file:// URLs to callers that prove they see the same disk
    workers: int = 4  # threads for Parquet and log calls, 1–64
    advertise: str = ""  # host:port where the other replicas reach this one; empty: where it listens
    cluster: str = "millrace"  # whose store it is: replicas say the same, another cluster on the same place is refused
    s3: S3Settings = field(default_factory=S3Settings)
    cache_dir: Path = Path(
        "cache"
    )  # copies of files of a remote store, for readers; each process has a part of its own
    cache_mb: int = 1024  # how much of them is kept, 16–1,000,000
    upkeep_interval_ms: int = 500  # how often tables are looked at for compaction, checkpoints and clean-up

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:
        """Raises SettingsError listing every fault."""
        reader = service_env(env, "storage")
        data_dir = reader.path("DATA_DIR", Path(env.get("MILLRACE_HOME", ".millrace")) / "data")
        found = cls(
            data_dir=data_dir,
            backend=(backend := reader.text("BACKEND", "local", choices=("local", "memory", "s3"))),
            direct_files=reader.boolean("DIRECT_FILES"),
            workers=reader.integer("WORKERS", 4, low=1, high=64),
            advertise=reader.text("ADVERTISE", ""),
            cluster=reader.text("CLUSTER", "millrace"),
            s3=S3Settings.read(reader, env, needed=backend == "s3"),
            cache_dir=reader.path("CACHE_DIR", data_dir / "cache"),
            cache_mb=reader.integer("CACHE_MB", 1024, low=16, high=1_000_000),
            upkeep_interval_ms=reader.duration_ms("UPKEEP_INTERVAL", 500, low=50, high=3_600_000),
        )
        reader.done()
        return found
