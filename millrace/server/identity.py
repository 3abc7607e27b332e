"""Who is calling, and as whom this process calls on (contracts.md section 7)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from millrace import errors
from millrace.server.rights import NO_RIGHTS, Rights
from millrace.server.settings import Secret


@dataclass(frozen=True, slots=True)
class Caller:
    """The authenticated caller of the RPC at hand. `kind`: person or service. `token` is forwarded to peers inside this request."""

    principal: str
    rights: Rights = NO_RIGHTS
    kind: str = "person"
    token: Secret = field(default_factory=lambda: Secret(""))

    @property
    def is_service(self) -> bool:
        return self.kind == "service"

    @property
    def is_admin(self) -> bool:
        """Of every namespace."""
        return self.rights.admin_everywhere


_CALLER: ContextVar[Caller | None] = ContextVar("millrace_caller", default=None)
_AS_SERVICE: ContextVar[bool] = ContextVar("millrace_as_service", default=False)


def caller() -> Caller:
    """The caller of the RPC this code runs for. Raises TokenInvalid outside of one: background work has no caller."""
    if (found := _CALLER.get()) is None:
        raise errors.TokenInvalid("this work has no caller")
    return found


def caller_or_none() -> Caller | None:
    """As `caller`, None in background work."""
    return _CALLER.get()


def set_caller(found: Caller) -> None:
    """For the auth layer and for tests: each RPC runs in a context of its own, so nothing needs to reset it."""
    _CALLER.set(found)


_OWNER: ContextVar[str] = ContextVar("millrace_owner", default="")


@contextmanager
def on_behalf_of(owner: str) -> Iterator[None]:
    """Background work inside the block is done for the principal `owner`: calls to peers say so, and are refused when that principal's
    rights were taken away (contracts.md section 7)."""
    before = _OWNER.set(owner)
    try:
        yield
    finally:
        _OWNER.reset(before)


def whose_work() -> str:
    """On whose behalf this process calls peers as itself: the owner of background work, or the user whose request it serves."""
    found = _CALLER.get()
    return _OWNER.get() or ("" if found is None else found.principal)


def forwarded_token() -> Secret | None:
    """The user's token to call peers with; None where this process calls as itself."""
    found = _CALLER.get()
    return None if found is None or _AS_SERVICE.get() else found.token


@contextmanager
def as_service() -> Iterator[None]:
    """Calls to peers inside the block carry this service's own token although a user asked: for writes that the service
    has checked and that people may not do themselves (resources, leases)."""
    before = _AS_SERVICE.set(True)
    try:
        yield
    finally:
        _AS_SERVICE.reset(before)


def require_admin_or_service() -> Caller:
    """Refuses people's tokens except those with the role admin. Raises NotAllowed."""
    if (found := caller()).is_service or found.is_admin:
        return found
    raise errors.NotAllowed(
        f"`{found.principal}` may not do this: only services and admins may",
        hint="use the RPC of the service that owns the resource, for instance PutSource",
    )


def caller_request_id(request_id: str) -> str:
    """The id under which this service passes a caller's request on to storage: callers choose ids without knowing each other's, and to
    storage they all come from this service."""
    return hashlib.sha256(f"{caller().principal}\0{request_id}".encode()).hexdigest()


class Principals:
    """Token hash -> caller, from the file of MILLRACE_PRINCIPALS_FILE; read again when the file changed."""

    def __init__(self, path: Path | None, entries: Mapping[str, Mapping[str, object]] | None = None) -> None:
        self._path = path
        self._stamp: tuple[int, int] = (0, 0)
        self._entries: Mapping[str, Mapping[str, object]] = entries or {}
        self.reload()

    def reload(self) -> None:
        """Blocking, but a few hundred bytes. Raises OSError or ValueError when the file cannot be used."""
        if self._path is None:
            return
        stat = self._path.stat()
        if (stamp := (stat.st_mtime_ns, stat.st_ino)) != self._stamp:
            loaded = json.loads(self._path.read_text())
            if not isinstance(loaded, dict):
                raise ValueError("a JSON object of token hashes is expected")
            self._entries, self._stamp = loaded, stamp

    def find(self, token: str) -> Caller | None:
        digest = hashlib.sha256(token.encode()).hexdigest()
        if (entry := self._entries.get(digest)) is None:
            return None
        return Caller(
            principal=str(entry.get("principal", "")),
            rights=Rights.of(entry.get("rights")) if "rights" in entry else Rights.of({"*": entry.get("roles")}),
            kind=str(entry.get("kind", "person")),
            token=Secret(token),
        )

    def authenticate(self, authorization: str) -> Caller:
        """From the `authorization` metadata. Raises TokenInvalid saying what is missing."""
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise errors.TokenInvalid(
                "the call carries no token",
                hint="send the metadata `authorization: Bearer TOKEN`; endpoints.json names the token_file",
            )
        found = self.find(token.strip()) or self._find_after_reload(token.strip())
        if found is None:
            raise errors.TokenInvalid(
                "the token is wrong or expired", hint="read the token from token_file of endpoints.json again"
            )
        return found

    def _find_after_reload(self, token: str) -> Caller | None:
        try:
            self.reload()
        except (OSError, ValueError):
            return None
        return self.find(token)
