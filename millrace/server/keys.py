"""The public keys of a token issuer: a file, or any OIDC issuer's JWKS found by discovery. Kept, refreshed, rotated.

PyJWT and cryptography (0.3 s to import) are loaded with the first keys: a laptop without signed tokens never does.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

REFRESH_S, RETRY_FIRST_S, RETRY_LAST_S = 300.0, 1.0, 30.0
UNKNOWN_KID_S = 10.0
"""How often at most an unknown key id makes this process ask the issuer again: anybody can invent ids."""
FETCH_TIMEOUT_S, MAX_BYTES = 5.0, 1 << 20
LOOPBACK = ("localhost", "127.0.0.1", "::1")

ALGORITHMS = {"RSA": ("RS256", "PS256"), "EC": ("ES256", "ES384"), "OKP": ("EdDSA",)}
"""Kind of key -> the signatures that it may verify. Secrets (`oct`) are none: whoever verified could sign."""

_log = logging.getLogger(__name__)


class KeysUnavailable(Exception):
    """Keys could not be read; its text says from where and why."""


@dataclass(frozen=True, slots=True)
class Key:
    """`algorithms`: those that it may verify."""

    kid: str
    key: Any
    algorithms: frozenset[str]


class Keys(Protocol):
    async def find(self, kid: str) -> Key | None:
        """None: the issuer has no such key. An empty `kid` is its only key. Raises KeysUnavailable."""

    def peek(self, kid: str) -> Key | None:
        """As `find`, among the keys that are known now."""

    @property
    def generation(self) -> int:
        """Changes when keys change: what was verified with the old ones is verified again."""

    def problem(self) -> str:
        """Why tokens cannot be verified now; empty when they can."""

    def never_read(self) -> bool:
        """True before the first keys, where a service must not serve without them."""


def parse_jwks(text: str | bytes) -> dict[str, Key]:
    """Signature keys by id. Raises ValueError when it is no JWKS; keys of unknown kinds are left out."""
    import jwt

    said = json.loads(text)
    if not isinstance(said, dict) or not isinstance(said.get("keys"), list):
        raise ValueError("not a JWKS: an object with `keys` is expected")
    found: dict[str, Key] = {}
    for one in said["keys"]:
        allowed = ALGORITHMS.get(str(one.get("kty")), ()) if isinstance(one, dict) else ()
        if not allowed or one.get("use", "sig") != "sig":
            continue
        named = one.get("alg")
        algorithms = frozenset(allowed) & ({named} if named else set(allowed))
        try:
            kid = str(one.get("kid", ""))
            found[kid] = Key(kid, jwt.PyJWK(one, algorithm=next(iter(sorted(algorithms)))).key, algorithms)
        except (jwt.PyJWTError, StopIteration, ValueError) as error:
            _log.warning("a key of the issuer is left out: %s", type(error).__name__)
    return found


def _choose(keys: Mapping[str, Key], kid: str) -> Key | None:
    return keys.get(kid) or (next(iter(keys.values())) if not kid and len(keys) == 1 else None)


class FileKeys:
    """A JWKS file, read again when it changed. One that does not exist is an issuer that has not signed yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int] = (0, 0)
        self._keys: dict[str, Key] = {}
        self.generation = 0

    async def find(self, kid: str) -> Key | None:
        return await asyncio.to_thread(self.peek, kid)

    def peek(self, kid: str) -> Key | None:
        self._read()
        return _choose(self._keys, kid)

    def _read(self) -> None:
        try:
            stat = self._path.stat()
            if (stamp := (stat.st_mtime_ns, stat.st_ino)) != self._stamp:
                self._keys, self._stamp = parse_jwks(self._path.read_bytes()), stamp
                self.generation += 1
        except FileNotFoundError:
            self._keys, self._stamp = {}, (0, 0)
        except (OSError, ValueError) as error:
            raise KeysUnavailable(f"the keys in {self._path.name} cannot be read: {error}") from error

    def problem(self) -> str:
        return ""

    def never_read(self) -> bool:
        return False


class IssuerKeys:
    """An issuer's keys over HTTPS. `jwks` empty: found by discovery. `max_age_s`: how long keys serve after they could last be read.

    Run `watch` as background work; `on_change` is called when `problem` changed."""

    def __init__(
        self,
        issuer: str,
        *,
        jwks: str = "",
        ca_file: Path | None = None,
        max_age_s: float = 21_600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._issuer, self._jwks, self._ca_file = issuer.rstrip("/"), jwks, ca_file
        self._named, self._max_age_s, self._clock = issuer, max_age_s, clock
        self._keys: dict[str, Key] = {}
        self._read_at: float | None = None
        self._asked_at = float("-inf")
        self._failure = "not read yet"
        self._reading = asyncio.Lock()
        self.generation = 0
        self.on_change: Callable[[], None] = lambda: None

    async def find(self, kid: str) -> Key | None:
        known = _choose(self._keys, kid)
        if known is None and self._clock() - self._asked_at >= UNKNOWN_KID_S:
            await self.refresh()
            known = _choose(self._keys, kid)
        if why := self.problem():
            raise KeysUnavailable(why)
        return known

    def peek(self, kid: str) -> Key | None:
        if why := self.problem():
            raise KeysUnavailable(why)
        return _choose(self._keys, kid)

    async def refresh(self) -> bool:
        """True when the keys could be read. One at a time."""
        async with self._reading:
            self._asked_at, before = self._clock(), self.problem()
            try:
                keys = await asyncio.to_thread(self._fetch)
            except (OSError, ValueError) as error:
                self._failure = f"{type(error).__name__}: {error}" if not str(error) else str(error)
                _log.warning("the keys of the issuer %s cannot be read: %s", self._named, self._failure)
                ok = False
            else:
                if keys.keys() != self._keys.keys():
                    self.generation += 1
                    _log.info("the issuer %s has the keys %s", self._named, ", ".join(sorted(keys)))
                self._keys, self._read_at, self._failure, ok = keys, self._clock(), "", True
            if self.problem() != before:
                self.on_change()
            return ok

    def _fetch(self) -> dict[str, Key]:
        where = self._jwks
        if not where:
            said = json.loads(_get(f"{self._issuer}/.well-known/openid-configuration", self._ca_file))
            if not isinstance(said, dict) or str(said.get("issuer", "")).rstrip("/") != self._issuer:
                raise ValueError("its discovery document names another issuer")
            where = str(said.get("jwks_uri", ""))
        found = parse_jwks(_get(where, self._ca_file))
        if not found:
            raise ValueError(f"no usable key at {where}")
        return found

    def problem(self) -> str:
        if self._read_at is None:
            return self._say(self._failure)
        age = self._clock() - self._read_at
        return self._say(f"for {age / 60:.0f} min: {self._failure}") if age > self._max_age_s else ""

    def _say(self, why: str) -> str:
        return (
            f"the keys of the issuer {self._named} cannot be read ({why}); check MILLRACE_ISSUER, MILLRACE_JWKS,"
            " MILLRACE_ISSUER_CA_FILE, and that this process may reach it"
        )

    def never_read(self) -> bool:
        return self._read_at is None

    async def watch(self) -> None:
        """Reads the keys for ever: soon again after a failure, else every 5 minutes."""
        pause = RETRY_FIRST_S
        while True:
            ok, before = await self.refresh(), self.problem()
            pause = RETRY_FIRST_S if ok else min(pause * 2, RETRY_LAST_S)
            await asyncio.sleep(REFRESH_S if ok else pause)
            if self.problem() != before:
                self.on_change()


def check_url(url: str) -> str:
    """What is wrong with an issuer's or a JWKS's address; empty when nothing is. Keys that come in the clear can be anybody's."""
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return ""
    if parts.scheme == "http" and parts.hostname in LOOPBACK:
        return ""
    return "must be https:// (http:// to this machine only)"


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_args: object) -> None:
        return None


def _get(url: str, ca_file: Path | None) -> bytes:
    """Raises OSError (URLError is one) and ValueError."""
    if why := check_url(url):
        raise ValueError(f"{url!r} {why}")
    context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), _NoRedirects())
    try:
        with opener.open(url, timeout=FETCH_TIMEOUT_S) as response:
            body: bytes = response.read(MAX_BYTES + 1)
    except urllib.error.URLError as error:
        raise OSError(
            f"GET {url}: {error.reason if not isinstance(error, urllib.error.HTTPError) else error}"
        ) from error
    except OSError as error:
        raise OSError(f"GET {url}: {error}") from error
    if len(body) > MAX_BYTES:
        raise ValueError(f"GET {url}: more than {MAX_BYTES} bytes")
    return body
