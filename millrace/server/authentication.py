"""From the `authorization` metadata to a caller: known tokens (services, the laptop's owner) by their hash, others by their signature."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from millrace import errors
from millrace.server.config import ServerSettings
from millrace.server.identity import Caller, Principals
from millrace.server.keys import FileKeys, IssuerKeys
from millrace.server.rights import Rights
from millrace.server.tokens import LOCAL_ISSUER, Grants, Issuer, Tokens, looks_signed


class Authenticator:
    """`tokens` None: only tokens of the principals file count."""

    def __init__(self, principals: Principals, tokens: Tokens | None = None, grants: Grants | None = None) -> None:
        self._principals, self._tokens, self._grants = principals, tokens, grants or Grants(None)

    async def caller(self, authorization: str) -> Caller:
        """Raises TokenInvalid saying what is missing or wrong; Starting while nobody can tell."""
        scheme, _, token = authorization.partition(" ")
        if self._tokens is None or scheme.lower() != "bearer" or not looks_signed(token):
            return self._principals.authenticate(authorization)
        token = token.strip()
        found = self._principals.find(token)
        try:
            return found or await self._tokens.verify(token)
        except (OSError, ValueError) as error:
            raise _no_grants(error) from error

    def known_caller(self, authorization: str) -> Caller:
        """As `caller`, without waiting: with the keys that are known now. For a page's requests, which are decided on the spot."""
        scheme, _, token = authorization.partition(" ")
        if self._tokens is None or scheme.lower() != "bearer" or not looks_signed(token):
            return self._principals.authenticate(authorization)
        try:
            return self._tokens.verify_now(token.strip())
        except (OSError, ValueError) as error:
            raise _no_grants(error) from error

    def granted(self, principal: str) -> Rights | None:
        """What the grants file says of somebody who is not here; None: nothing, their rights were checked when they made the resource."""
        try:
            return self._grants.find(principal)
        except (OSError, ValueError) as error:
            raise _no_grants(error) from error

    @property
    def remote(self) -> IssuerKeys | None:
        """The issuer whose keys have to be fetched, where there is one."""
        keys = self._tokens.issuer.keys if self._tokens else None
        return keys if isinstance(keys, IssuerKeys) else None

    def problem(self) -> str:
        return self.remote.problem() if self.remote else ""

    def never_read(self) -> bool:
        """Whether the service must not serve yet: people's tokens could not be told from forged ones."""
        return self.remote is not None and self.remote.never_read()

    def on_change(self, changed: Callable[[], None]) -> None:
        if self.remote:
            self.remote.on_change = changed

    @classmethod
    def of(cls, settings: ServerSettings, entries: Mapping[str, Mapping[str, object]] | None = None) -> Authenticator:
        """As the settings say: an OIDC issuer, or else the one of this MILLRACE_HOME (`millrace token`)."""
        grants = Grants(settings.grants_file)
        principals = Principals(None if entries else settings.principals_file, entries)
        if settings.issuer:
            keys = IssuerKeys(
                settings.issuer,
                jwks=settings.jwks,
                ca_file=settings.issuer_ca_file,
                max_age_s=settings.keys_max_age_s,
            )
            issuer = Issuer(settings.issuer, keys, settings.audience, settings.roles_claim)
        else:
            local = FileKeys(settings.home / "issuer" / "jwks.json")
            issuer = Issuer(LOCAL_ISSUER, local, settings.audience, settings.roles_claim)
        return cls(principals, Tokens(issuer, grants), grants)


def _no_grants(error: Exception) -> errors.Starting:
    return errors.Starting(
        f"MILLRACE_GRANTS_FILE cannot be used ({type(error).__name__}), so nobody's rights are known",
        hint="mend the file: a JSON object of principals, each {scope: role}",
    )
