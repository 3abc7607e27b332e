"""Signed tokens (JWT): whose they are, and what they allow. Verified once, remembered by hash until they expire.

Nothing here logs or repeats a token; a refusal tells a clock that is off, a wrong audience and a wrong issuer apart.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from millrace import errors
from millrace.server.identity import Caller
from millrace.server.keys import ALGORITHMS, Key, Keys, KeysUnavailable
from millrace.server.rights import Rights
from millrace.server.settings import Secret

LEEWAY_S = 60
REMEMBERED = 10_000
MAX_TOKEN_BYTES = 8192
LOCAL_ISSUER = "urn:millrace:local"
"""The `iss` of tokens that `millrace token` signs."""
AUDIENCE, ROLES_CLAIM = "millrace", "millrace_roles"
PINNED = frozenset(one for allowed in ALGORITHMS.values() for one in allowed)
_REQUIRED = ("exp", "sub", "iss", "aud")


class Grants:
    """Principal -> rights, from a file that is read again when it changed: for issuers that give no roles, and for taking rights away from
    the owners of what runs by itself. Who is not in it has what the token says."""

    def __init__(self, path: Path | None) -> None:
        self._path, self._stamp = path, (0, 0)
        self._found: dict[str, Rights] = {}

    def find(self, principal: str) -> Rights | None:
        """Raises OSError or ValueError when the file cannot be used: nobody's rights are guessed."""
        if self._path is None:
            return None
        stat = self._path.stat()
        if (stamp := (stat.st_mtime_ns, stat.st_ino)) != self._stamp:
            loaded = json.loads(self._path.read_text())
            if not isinstance(loaded, dict):
                raise ValueError(f"{self._path.name}: a JSON object of principals is expected")
            self._found, self._stamp = {who: Rights.of(said) for who, said in loaded.items()}, stamp
        return self._found.get(principal)


@dataclass(frozen=True, slots=True)
class Issuer:
    """Whose tokens count. `roles_claim`: where its tokens name roles, a claim or a path with dots (`realm_access.roles`)."""

    name: str
    keys: Keys
    audience: str = AUDIENCE
    roles_claim: str = ROLES_CLAIM


@dataclass(frozen=True, slots=True)
class _Known:
    """What a token said. `expires`: seconds since 1970. `generation`: of the keys that it was verified with."""

    expires: float
    generation: int
    principal: str
    rights: Rights


class Tokens:
    """Verifies the tokens of one issuer. `now`: seconds since 1970."""

    def __init__(self, issuer: Issuer, grants: Grants, now: Callable[[], float] = time.time) -> None:
        self.issuer, self._grants, self._now = issuer, grants, now
        self._known: OrderedDict[bytes, _Known] = OrderedDict()

    async def verify(self, token: str) -> Caller:
        """Raises TokenInvalid, saying why; Starting while the issuer's keys are not to be had."""
        if (known := self._remembered(token)) is not None:
            return known
        return await asyncio.to_thread(self._verified, token, await self._find(token))

    def verify_now(self, token: str) -> Caller:
        """As `verify`, with the keys that are known now."""
        if (known := self._remembered(token)) is not None:
            return known
        _, kid = _announced(token)
        try:
            return self._verified(token, self.issuer.keys.peek(kid))
        except KeysUnavailable as error:
            raise _no_keys(error) from error

    def _remembered(self, token: str) -> Caller | None:
        known = self._known.get(_digest(token))
        if known is None or known.generation != self.issuer.keys.generation or known.expires + LEEWAY_S <= self._now():
            return None
        return self._caller(token, known)

    async def _find(self, token: str) -> Key | None:
        _, kid = _announced(token)
        try:
            return await self.issuer.keys.find(kid)
        except KeysUnavailable as error:
            raise _no_keys(error) from error

    def _verified(self, token: str, key: Key | None) -> Caller:
        algorithm, kid = _announced(token)
        if key is None:
            self._check_issuer(_unverified(token))
            raise refused(
                "key", f"the issuer {self.issuer.name} has no key {kid[:40]!r}", "get a new token of that issuer"
            )
        if algorithm not in key.algorithms:
            raise refused("algorithm", f"the issuer's key does not sign with {algorithm}", "get a token of the issuer")
        claims = _decoded(token, key, algorithm)
        self._check(claims)
        rights = Rights.of(_at(claims, self.issuer.roles_claim))
        known = _Known(float(claims["exp"]), self.issuer.keys.generation, str(claims["sub"]), rights)
        self._known[_digest(token)] = known
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return self._caller(token, known)

    def _caller(self, token: str, known: _Known) -> Caller:
        granted = self._grants.find(known.principal)
        return Caller(known.principal, known.rights if granted is None else granted, "person", Secret(token))

    def _check_issuer(self, claims: Mapping[str, Any]) -> None:
        said = str(claims.get("iss", ""))
        if said.rstrip("/") != self.issuer.name.rstrip("/"):
            raise refused(
                "issuer",
                f"the token is of the issuer {said[:200]!r}; this server trusts {self.issuer.name}",
                "get a token there, or set MILLRACE_ISSUER",
            )

    def _check(self, claims: Mapping[str, Any]) -> None:
        missing = [name for name in _REQUIRED if not claims.get(name)]
        if missing:
            raise refused("claims", f"the token has no {', '.join(missing)}", "let the issuer put them in")
        self._check_issuer(claims)
        audiences = claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]
        if self.issuer.audience not in audiences:
            raise refused(
                "audience",
                f"the token is for {', '.join(map(str, audiences))[:200]}, not for {self.issuer.audience}",
                f"ask the issuer for the audience {self.issuer.audience}",
            )
        self._check_times(claims)

    def _check_times(self, claims: Mapping[str, Any]) -> None:
        now = self._now()
        try:
            ends, begins = float(claims["exp"]), max(float(claims.get("nbf", 0)), float(claims.get("iat", 0)))
        except (TypeError, ValueError) as error:
            raise refused("claims", "the token's times are no numbers", "get a token of the issuer") from error
        clock = f"here it is {_utc(now)}"
        doubt = "get a new token; if it is a new one, the clock of the issuer or of this server is wrong"
        if now > ends + LEEWAY_S:
            raise refused("expired", f"the token expired {_minutes(now - ends)} ago, at {_utc(ends)}; {clock}", doubt)
        if now < begins - LEEWAY_S:
            raise refused(
                "not_yet_valid",
                f"the token is not valid before {_utc(begins)}, in {_minutes(begins - now)}; {clock}",
                doubt,
            )


def refused(cause: str, message: str, hint: str) -> errors.TokenInvalid:
    """`cause` is for programs: expired, not_yet_valid, audience, issuer, algorithm, key, signature, claims, malformed."""
    return errors.TokenInvalid(message, hint=hint, metadata={"cause": cause})


def _no_keys(error: KeysUnavailable) -> errors.Starting:
    return errors.Starting(str(error), hint="try again in a moment", retry_after_ms=1000)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def looks_signed(token: str) -> bool:
    return token.count(".") == 2


def _announced(token: str) -> tuple[str, str]:
    """Algorithm and key id, as the token says. Raises TokenInvalid for an algorithm that does not count."""
    header = _header(token)
    algorithm = str(header.get("alg", ""))
    if algorithm not in PINNED:
        raise refused(
            "algorithm",
            f"the token is signed with {algorithm[:20]!r}: only {', '.join(sorted(PINNED))} count",
            "let the issuer sign with a key pair",
        )
    return algorithm, str(header.get("kid", ""))


def _header(token: str) -> Mapping[str, Any]:
    import jwt

    try:
        if len(token) > MAX_TOKEN_BYTES:
            raise jwt.DecodeError("too long")
        found: Mapping[str, Any] = jwt.get_unverified_header(token)
        return found
    except jwt.PyJWTError as error:
        raise refused(
            "malformed", "the token is no JWT", "send it whole: three parts with dots between them"
        ) from error


def _unverified(token: str) -> Mapping[str, Any]:
    """Claims that nobody vouches for: only to say better what is wrong."""
    import jwt

    try:
        found: Mapping[str, Any] = jwt.decode(token, options={"verify_signature": False})
        return found
    except jwt.PyJWTError:
        return {}


def _decoded(token: str, key: Key, algorithm: str) -> Mapping[str, Any]:
    """The claims of a token whose signature is right. Their values are checked by `_check`, which says by how much a time is off."""
    import jwt

    unchecked = {f"verify_{name}": False for name in ("exp", "nbf", "iat", "aud", "iss", "sub", "jti")}
    try:
        found: Mapping[str, Any] = jwt.decode(token, key.key, algorithms=[algorithm], options=unchecked)  # type: ignore[arg-type]
        return found
    except jwt.InvalidSignatureError as error:
        raise refused("signature", "the token's signature is wrong", "get a new token of the issuer") from error
    except (jwt.PyJWTError, ValueError, TypeError) as error:
        raise refused("malformed", "the token cannot be read", "get a new token of the issuer") from error


def _at(claims: Mapping[str, Any], path: str) -> object:
    """The claim `path`; where there is none, what the path's dots lead to."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for step in path.split("."):
        found = found.get(step) if isinstance(found, Mapping) else None
    return found


def _utc(seconds: float) -> str:
    try:
        return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return "a time beyond the calendar"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
