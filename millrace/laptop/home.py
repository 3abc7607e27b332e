"""MILLRACE_HOME: tokens, the page's key, endpoints.json, logs. Everything secret is 0600 in a folder of 0700."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

AREAS = ("extract", "storage", "transform", "analysis", "viz")
PERSON = "local"


@dataclass(frozen=True, slots=True)
class Home:
    """Where things are below one MILLRACE_HOME."""

    root: Path

    @property
    def endpoints(self) -> Path:
        return self.root / "endpoints.json"

    @property
    def pid(self) -> Path:
        return self.root / "supervisor.pid"

    @property
    def tokens(self) -> Path:
        return self.root / "tokens"

    @property
    def principals(self) -> Path:
        return self.tokens / "principals.json"

    @property
    def data(self) -> Path:
        return Path(os.environ.get("MILLRACE_STORAGE_DATA_DIR") or self.root / "data").absolute()

    @property
    def archive(self) -> str:
        """The URL of where exports go unless the environment says otherwise."""
        return (self.root / "archive").absolute().as_uri()

    def token(self, principal: str) -> Path:
        return self.tokens / f"{principal}.token"

    def log(self, area: str) -> Path:
        return self.root / "logs" / f"{area}.log"

    def prepare(self) -> None:
        """Makes folders, tokens and the principals file; what exists is kept. Raises OSError."""
        for folder in (self.root, self.tokens, self.root / "logs"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        known = {principal: _secret(self.token(principal)) for principal in (PERSON, *AREAS)}
        entries = {_digest(token): _entry(principal) for principal, token in known.items()}
        write_private(self.principals, json.dumps(entries, indent=1) + "\n")

    def secret_file(self, name: str) -> Path:
        return self.root / "servers" / f"{name}.secret"

    def secret(self, name: str) -> str:
        """A secret that a server started here and storage share; made once."""
        return _secret(self.secret_file(name))

    def page_key(self) -> str:
        """The key that lets a browser in; made once, so that restarts keep browsers signed in."""
        return _secret(self.root / "page.key")


@dataclass(frozen=True, slots=True)
class Endpoints:
    """What endpoints.json says. `services`: what reaches each, whichever of its replicas. `replicas`: the address of every process, where
    a service has several. `down`: what stays down ("viz", "viz-2"), with the reason."""

    services: Mapping[str, str]
    url: str
    token_file: Path
    pid: int
    home: Path
    down: Mapping[str, str]
    replicas: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def token(self) -> str:
        return self.token_file.read_text().strip()

    def write(self) -> None:
        """Replaces the file as a whole: a reader sees the old or the new."""
        said: dict[str, Any] = {
            "services": dict(self.services),
            "url": self.url,
            "token_file": str(self.token_file),
            "pid": self.pid,
            "data_dir": str(Home(self.home).data),
        }
        if self.replicas:
            said["replicas"] = {area: list(addresses) for area, addresses in self.replicas.items()}
        if self.down:
            said["down"] = dict(self.down)
        write_private(Home(self.home).endpoints, json.dumps(said, indent=1) + "\n")


def read_endpoints(home: Path) -> Endpoints:
    """Raises FileNotFoundError when nothing was started there, ValueError when the file is damaged."""
    said = json.loads(Home(home).endpoints.read_text())
    try:
        return Endpoints(
            said["services"],
            said["url"],
            Path(said["token_file"]),
            int(said["pid"]),
            home,
            said.get("down", {}),
            said.get("replicas", {}),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{Home(home).endpoints} is damaged") from error


def write_private(path: Path, text: str) -> None:
    """Atomically, readable by the owner alone."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(text)
    fresh.replace(path)


def _secret(path: Path) -> str:
    """What the file holds; made when it is missing or empty."""
    try:
        if found := path.read_text().strip():
            return found
    except FileNotFoundError:
        pass
    made = secrets.token_urlsafe(32)
    write_private(path, made + "\n")
    return made


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _entry(principal: str) -> dict[str, object]:
    person = principal == PERSON
    return {"principal": principal, "roles": ["admin"] if person else [], "kind": "person" if person else "service"}
