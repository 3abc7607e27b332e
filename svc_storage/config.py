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
            environment=_named(reader, env, "S3_ACCESS_KEY", "S3_SECRET_KEY", "S3_SESSION_TOKEN"),
        )
        if found.url and not (found.url.startswith("s3://") and found.url[5:].split("/")[0]):
            reader.fault("S3_URL", "is not s3://bucket/prefix")
        if bool(found.access_key) != bool(found.secret_key):
            reader.fault("S3_ACCESS_KEY", "and S3_SECRET_KEY go together")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class CassandraSettings:
    """Where the cluster is and how to get in. User and password are references: `env:NAME`, or `file:/path`, which may change."""

    contact_points: tuple[str, ...] = ()  # host or host:port, by commas; the other nodes are found through them
    keyspace: str = "millrace"  # made when it is missing
    datacenter: str = ""  # whose nodes are asked; may be empty where there is only one
    replication: int = 0  # copies of each row in a keyspace that is made; 0: one per node, at most 3
    user: str = ""  # reference
    password: str = ""  # reference
    tls_ca: Path | None = None  # whom to trust, PEM; unset: no TLS
    tls_cert: Path | None = None  # who we are, PEM, where the cluster asks
    tls_key: Path | None = None  # its key, PEM
    environment: Mapping[str, Secret] = field(default_factory=dict)  # what the `env:` references name

    @classmethod
    def read(cls, reader: Env, env: Mapping[str, str], *, needed: bool) -> Self:
        found = cls(
            contact_points=reader.words("CASSANDRA_CONTACT_POINTS"),
            keyspace=reader.text("CASSANDRA_KEYSPACE", "millrace"),
            datacenter=reader.text("CASSANDRA_DATACENTER", ""),
            replication=reader.integer("CASSANDRA_REPLICATION", 0, low=0, high=9),
            user=_reference(reader, "CASSANDRA_USER", env),
            password=_reference(reader, "CASSANDRA_PASSWORD", env),
            tls_ca=_file(reader, "CASSANDRA_TLS_CA"),
            tls_cert=_file(reader, "CASSANDRA_TLS_CERT"),
            tls_key=_file(reader, "CASSANDRA_TLS_KEY"),
            environment=_named(reader, env, "CASSANDRA_USER", "CASSANDRA_PASSWORD"),
        )
        if needed and not found.contact_points:
            reader.fault("CASSANDRA_CONTACT_POINTS", "is missing")
        if bool(found.user) != bool(found.password):
            reader.fault("CASSANDRA_USER", "and CASSANDRA_PASSWORD go together")
        if (found.tls_cert or found.tls_key) and not (found.tls_cert and found.tls_key and found.tls_ca):
            reader.fault("CASSANDRA_TLS_CERT", "needs CASSANDRA_TLS_KEY and CASSANDRA_TLS_CA")
        return found


def _named(reader: Env, env: Mapping[str, str], *settings: str) -> Mapping[str, Secret]:
    """The environment variables that the references in these settings name."""
    values = (reader.text(name, "") for name in settings)
    names = [value.removeprefix("env:") for value in values if value.startswith("env:")]
    return {name: Secret(env[name]) for name in names if name in env}


def _file(reader: Env, name: str) -> Path | None:
    return reader.path(name, must_exist=True) if reader.text(name, "") else None


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
    backend: str = "local"  # local, memory, s3, cassandra
    direct_files: bool = False  # hand out file:// URLs to callers that prove they see the same disk
    workers: int = 4  # threads for Parquet and log calls, 1–64
    advertise: str = ""  # host:port where the other replicas reach this one; empty: where it listens
    replica_authority: str = (
        ""  # what calls to another replica name as their host, where a sidecar routes by it; empty: its address
    )
    cluster: str = "millrace"  # whose store it is: replicas say the same, another cluster on the same place is refused
    s3: S3Settings = field(default_factory=S3Settings)
    cassandra: CassandraSettings = field(default_factory=CassandraSettings)
    cache_dir: Path = Path(
        "cache"
    )  # copies of files of a remote store, for readers; each process has a part of its own
    cache_mb: int = 1024  # how much of them is kept, 16–1,000,000
    archive: str = ""  # where exports go: file:///folder or s3://bucket/prefix (with the S3 settings); empty: nowhere
    upkeep_interval_ms: int = 500  # how often tables are looked at for compaction, checkpoints and clean-up

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:
        """Raises SettingsError listing every fault."""
        reader = service_env(env, "storage")
        data_dir = reader.path("DATA_DIR", Path(env.get("MILLRACE_HOME", ".millrace")) / "data")
        found = cls(
            data_dir=data_dir,
            backend=(backend := reader.text("BACKEND", "local", choices=("local", "memory", "s3", "cassandra"))),
            direct_files=reader.boolean("DIRECT_FILES"),
            workers=reader.integer("WORKERS", 4, low=1, high=64),
            advertise=reader.text("ADVERTISE", ""),
            replica_authority=reader.text("REPLICA_AUTHORITY", ""),
            cluster=reader.text("CLUSTER", "millrace"),
            s3=S3Settings.read(reader, env, needed=backend == "s3"),
            cassandra=CassandraSettings.read(reader, env, needed=backend == "cassandra"),
            cache_dir=reader.path("CACHE_DIR", data_dir / "cache"),
            cache_mb=reader.integer("CACHE_MB", 1024, low=16, high=1_000_000),
            archive=_archive(reader, data_dir.parent / "archive" if backend == "local" else None),
            upkeep_interval_ms=reader.duration_ms("UPKEEP_INTERVAL", 500, low=50, high=3_600_000),
        )
        reader.done()
        return found


def _archive(reader: Env, folder: Path | None) -> str:
    """`folder`: where it is unless the environment says otherwise."""
    found = reader.text("ARCHIVE", folder.absolute().as_uri() if folder else "")
    if found and not found.startswith(("file:///", "s3://")):
        reader.fault("ARCHIVE", "is neither file:///folder nor s3://bucket/prefix")
    return found
