"""Settings of extract: MILLRACE_EXTRACT_*."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from millrace.server.config import service_env


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    file_roots: tuple[Path, ...]  # file sources read below these only, links resolved; home is closed but for its demo
    home: Path  # what ${MILLRACE_HOME} in a path means
    lease_ttl_ms: int = 10_000  # how long a source rests at most after its worker died, 5–60 s
    secret_names: tuple[str, ...] = ("MILLRACE_SECRET_*",)  # environment variables that `env:` may name, as globs
    secret_roots: tuple[Path, ...] = ()  # folders below which `file:` may lie
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)  # where `env:` is looked up

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:
        """Raises SettingsError listing every fault."""
        reader = service_env(env, "extract")
        home = Path(env.get("MILLRACE_HOME", ".millrace")).absolute()
        roots = reader.paths("FILE_ROOTS", (Path("examples"), home / "demo", Path.cwd()))
        found = cls(
            file_roots=tuple(dict.fromkeys(root.resolve() for root in roots)),
            home=home,
            lease_ttl_ms=reader.duration_ms("LEASE_TTL", 10_000, low=5_000, high=60_000),
            secret_names=reader.words("SECRET_NAMES", ("MILLRACE_SECRET_*",)),
            secret_roots=tuple(root.resolve() for root in reader.paths("SECRET_ROOTS", (home / "secrets",))),
            environment=_Hidden(env or os.environ),
        )
        reader.done()
        return found


class _Hidden(dict[str, str]):
    """An environment that no repr shows: it holds secrets."""

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__
