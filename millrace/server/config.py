"""The settings that all five servers have. A service's own are in its `config.py`."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from millrace.server.keys import check_url
from millrace.server.logs import LEVELS
from millrace.server.settings import Env, Secret, SettingsError

AREAS = ("extract", "storage", "transform", "analysis", "viz")
PORTS = {"page": 7400, "extract": 7401, "storage": 7402, "transform": 7403, "analysis": 7404, "viz": 7405}
ANYWHERE = ("0.0.0.0", "::", "[::]")
SHARED_NAMES = ("PORT", "TARGET")
"""Below each service's own prefix, but read here: a service's Env does not call them unknown (`service_env`)."""


def service_env(env: Mapping[str, str], area: str) -> Env:
    """The reader for the settings of one service: MILLRACE_<AREA>_*, without those read here."""
    reader = Env(env, f"MILLRACE_{area.upper()}_")
    reader.allow(*SHARED_NAMES)
    return reader


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Read from MILLRACE_*; durations there are `30s` or milliseconds."""

    service: str
    home: Path  # where data, tokens and logs live: MILLRACE_HOME
    host: str = "127.0.0.1"  # 0.0.0.0 behind a sidecar
    port: int = 0  # 0: any free one, for tests
    so_reuseport: bool = False  # only under the supervisor, which holds the same port, bound and never listening
    principals_file: Path | None = None  # who may call; None refuses every call but health
    token: Secret = field(default_factory=lambda: Secret(""))  # this service's own, from MILLRACE_TOKEN_FILE
    targets: Mapping[str, str] = field(default_factory=dict)  # host:port of each service that has one
    issuer: str = ""  # the OIDC issuer whose tokens count (https://…); empty: the laptop's own (`millrace token`)
    jwks: str = ""  # where its keys are, https://…; empty: by discovery
    issuer_ca_file: Path | None = None  # certificates that its server is checked against; None: the system's
    audience: str = "millrace"  # what tokens must be for
    roles_claim: str = "millrace_roles"  # where tokens name roles per namespace; dots lead inside
    keys_max_age_s: float = 21_600.0  # how long known keys serve while the issuer cannot be reached
    grants_file: Path | None = None  # principal -> rights, JSON; it wins over tokens, and rules what runs by itself
    audit_file: Path | None = None  # where the audit log goes; None: the process's own log
    log_level: str = "INFO"
    metric_tables: tuple[str, ...] = ()  # tables that metrics may name; the rest are "other"
    otlp_endpoint: str = ""  # http://host:4317; empty: no telemetry leaves the process
    stream_age_s: float = 1800.0  # ± 10 %
    max_streams: int = 1000  # beyond: TOO_MANY_STREAMS
    drain_lead_s: float = 0.0  # between NOT_SERVING and the first refused call; 5 s in a cluster (mesh.md section 4)
    drain_grace_s: float = 5.0  # how long calls and streams may take to end; 30 s in a cluster
    max_connection_age_s: float = 3600.0  # a backstop; 0: none (inside the mesh)
    keepalive_s: float = 30.0  # a client that does not answer a ping within a third of it is cut off
    supervisor_pid: int = 0  # end when this process is gone; 0: started by hand
    supervisor_fd: int = -1  # a pipe that closes when the supervisor dies, where the kernel cannot tell

    @property
    def address(self) -> str:
        """host:port as another process reaches this one; empty when nobody can know before it listens. Who listens everywhere is
        reached at the address of its own host name: in a cluster the pod's."""
        if not self.port:
            return ""
        if self.host not in ANYWHERE:
            return f"{self.host}:{self.port}"
        with contextlib.suppress(OSError):
            return f"{socket.gethostbyname(socket.gethostname())}:{self.port}"
        return ""

    @classmethod
    def from_env(cls, service: str, env: Mapping[str, str]) -> Self:
        """Raises SettingsError listing every fault."""
        shared, own = Env(env, "MILLRACE_"), Env(env, f"MILLRACE_{service.upper()}_")
        home = shared.path("HOME", Path(".millrace"))
        token, token_faults = _token(shared, env, home / "tokens" / f"{service}.token")
        found = cls(
            service=service,
            home=home,
            host=shared.text("HOST", "127.0.0.1"),
            port=own.integer("PORT", PORTS.get(service, 0), low=0, high=65535),
            so_reuseport=shared.boolean("SO_REUSEPORT"),
            principals_file=_principals(shared, env, home),
            token=token,
            targets={area: env[name] for area in AREAS if env.get(name := f"MILLRACE_{area.upper()}_TARGET")},
            issuer=_https(shared, "ISSUER"),
            jwks=_https(shared, "JWKS"),
            issuer_ca_file=_optional(shared, env, "ISSUER_CA_FILE", must_exist=True),
            audience=shared.text("AUDIENCE", "millrace"),
            roles_claim=shared.text("ROLES_CLAIM", "millrace_roles"),
            keys_max_age_s=shared.duration_ms("KEYS_MAX_AGE", 21_600_000, low=60_000, high=604_800_000) / 1000,
            grants_file=_optional(shared, env, "GRANTS_FILE", must_exist=True),
            audit_file=_optional(shared, env, "AUDIT_FILE"),
            log_level=shared.text("LOG_LEVEL", "INFO", choices=LEVELS),
            metric_tables=shared.words("METRIC_TABLES"),
            otlp_endpoint=env.get("OTEL_EXPORTER_OTLP_ENDPOINT", ""),
            stream_age_s=shared.duration_ms("STREAM_AGE", 1_800_000, low=100) / 1000,
            max_streams=shared.integer("MAX_STREAMS", 1000, low=1),
            drain_lead_s=shared.duration_ms("DRAIN_LEAD", 0, high=60_000) / 1000,
            drain_grace_s=shared.duration_ms("DRAIN_GRACE", 5000, high=300_000) / 1000,
            max_connection_age_s=shared.duration_ms("MAX_CONNECTION_AGE", 3_600_000) / 1000,
            keepalive_s=shared.duration_ms("KEEPALIVE", 30_000, low=1000) / 1000,
            supervisor_pid=shared.integer("SUPERVISOR_PID", 0, low=0),
            supervisor_fd=shared.integer("SUPERVISOR_FD", -1, low=-1),
        )
        if faults := [*_without_unknown(shared), *_without_unknown(own), *token_faults]:
            raise SettingsError(faults)
        return found


def _without_unknown(reader: Env) -> list[str]:
    """Only what is wrong: names that this part does not know belong to the service."""
    return [fault for fault in reader.faults() if " is not a setting" not in fault]


def _https(shared: Env, name: str) -> str:
    url = shared.text(name, "")
    if url and (why := check_url(url)):
        shared.fault(name, f"is {url!r}: it {why}")
    return url


def _optional(shared: Env, env: Mapping[str, str], name: str, *, must_exist: bool = False) -> Path | None:
    found = shared.path(name, Path(), must_exist=must_exist)
    return found if env.get(f"MILLRACE_{name}") else None


def _principals(shared: Env, env: Mapping[str, str], home: Path) -> Path | None:
    """The file that is named, or the one that `millrace up` left in the home folder."""
    usual = home / "tokens" / "principals.json"
    if env.get("MILLRACE_PRINCIPALS_FILE"):
        return shared.path("PRINCIPALS_FILE", must_exist=True)
    return usual if usual.exists() else None


def _token(shared: Env, env: Mapping[str, str], usual: Path) -> tuple[Secret, list[str]]:
    """The same for this service's own token."""
    if not env.get("MILLRACE_TOKEN_FILE") and not usual.exists():
        return Secret(""), []
    path = shared.path("TOKEN_FILE", usual)
    try:
        return Secret(path.read_text().strip()), []
    except OSError as error:
        return Secret(""), [f"MILLRACE_TOKEN_FILE cannot be read: {error.strerror}"]
