"""Signed tokens: what counts, what does not, and whether the refusal tells one from the other."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key

from millrace import errors
from millrace.laptop.issuer import sign
from millrace.server import keys as keys_module
from millrace.server.authentication import Authenticator
from millrace.server.identity import Principals
from millrace.server.keys import FileKeys, IssuerKeys, check_url
from millrace.server.tokens import LOCAL_ISSUER, Grants, Issuer, Tokens

RSA = generate_private_key(65537, 2048)
ED = Ed25519PrivateKey.generate()
OTHER = Ed25519PrivateKey.generate()


def now() -> int:
    """Asked for each token: a suite may take minutes to get here."""
    return int(time.time())


def claims_of_ana() -> dict[str, Any]:
    return {
        "iss": LOCAL_ISSUER, "aud": "millrace", "sub": "ana", "exp": now() + 600, "iat": now(), "millrace_roles": {"a": "reader"},
    }  # fmt: skip


def public(kid: str, key: RSAPrivateKey | Ed25519PrivateKey) -> dict[str, Any]:
    kind = jwt.algorithms.RSAAlgorithm if isinstance(key, RSAPrivateKey) else jwt.algorithms.OKPAlgorithm
    return {**json.loads(kind.to_jwk(key.public_key())), "kid": kid, "use": "sig"}  # type: ignore[arg-type]


def token(key: Any = ED, alg: str = "EdDSA", kid: str = "ed", **changes: Any) -> str:
    claims = {name: value for name, value in {**claims_of_ana(), **changes}.items() if value is not None}
    return jwt.encode(claims, key, algorithm=alg, headers={"kid": kid} if kid else None)


@pytest.fixture
def jwks(tmp_path: Path) -> Path:
    path = tmp_path / "jwks.json"
    symmetric = {"kty": "oct", "k": base64.urlsafe_b64encode(b"secret").decode(), "kid": "oct"}
    path.write_text(json.dumps({"keys": [public("ed", ED), public("rsa", RSA), symmetric, {"kty": "??"}]}))
    return path


@pytest.fixture
def tokens(jwks: Path) -> Tokens:
    return Tokens(Issuer(LOCAL_ISSUER, FileKeys(jwks)), Grants(None))


async def cause(tokens: Tokens, what: str) -> errors.TokenInvalid:
    with pytest.raises(errors.TokenInvalid) as caught:
        await tokens.verify(what)
    assert what not in caught.value.message + caught.value.hint, "a token is never repeated"
    assert caught.value.hint
    return caught.value


async def test_a_good_token_is_somebody(tokens: Tokens) -> None:
    for good in (token(), token(RSA, "RS256", "rsa"), token(RSA, "PS256", "rsa"), token(aud=["x", "millrace"])):
        caller = await tokens.verify(good)
        assert (caller.principal, caller.kind, str(caller.rights)) == ("ana", "person", "a=reader")
        assert good not in repr(caller)


@pytest.mark.parametrize(
    ("made", "why", "said"),
    [
        (lambda: token(exp=now() - 3600), "expired", "60 min ago"),
        (lambda: token(exp=now() - 61), "expired", " ago"),
        (lambda: token(nbf=now() + 3600), "not_yet_valid", "in 60 min"),
        (lambda: token(iat=now() + 3600), "not_yet_valid", "here it is"),
        (lambda: token(aud="grafana"), "audience", "for grafana, not for millrace"),
        (lambda: token(iss="https://other"), "issuer", "https://other"),
        (lambda: token(iss="https://other", kid="zzz"), "issuer", "this server trusts"),
        (lambda: token(kid="zzz"), "key", "has no key 'zzz'"),
        (lambda: token(kid=""), "key", "has no key"),
        (lambda: token(OTHER), "signature", "signature is wrong"),
        (lambda: token(sub=None), "claims", "no sub"),
        (lambda: token(exp=None), "claims", "no exp"),
        (lambda: token(aud=None), "claims", "no aud"),
        (lambda: token(exp="soon"), "claims", "no numbers"),
        (lambda: jwt.encode(claims_of_ana(), None, algorithm="none", headers={"kid": "ed"}), "algorithm", "'none'"),
        (lambda: token("s" * 40, "HS256", "oct"), "algorithm", "'HS256'"),
        (lambda: token(RSA, "RS256", "ed"), "algorithm", "does not sign with RS256"),
        (lambda: token(RSA, "RS512", "rsa"), "algorithm", "'RS512'"),
        (lambda: "a.b.c", "malformed", "no JWT"),
        (lambda: token(note="x" * 9000), "malformed", "no JWT"),
    ],
)  # fmt: skip
async def test_a_bad_token_is_told_why(tokens: Tokens, made: Callable[[], str], why: str, said: str) -> None:
    found = await cause(tokens, made())
    assert found.metadata["cause"] == why, found.message
    assert said in found.message


async def test_a_public_key_is_no_shared_secret(tokens: Tokens) -> None:
    """The old confusion: HS256 with the RSA key's public half as the secret."""
    pem = RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    head, body = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")
        for part in ({"alg": "HS256", "kid": "rsa"}, claims_of_ana())
    )
    import hmac

    mark = base64.urlsafe_b64encode(hmac.digest(pem, head + b"." + body, "sha256")).rstrip(b"=")
    assert (await cause(tokens, b".".join((head, body, mark)).decode())).metadata["cause"] == "algorithm"


async def test_a_minute_of_clocks_is_forgiven(tokens: Tokens) -> None:
    await tokens.verify(token(exp=now() - 50))
    await tokens.verify(token(nbf=now() + 50))


async def test_what_was_verified_is_remembered_until_it_expires(jwks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [float(now())]
    tokens = Tokens(Issuer(LOCAL_ISSUER, FileKeys(jwks)), Grants(None), now=lambda: clock[0])
    good, seen = token(exp=now() + 60), 0
    original = Tokens._verified

    def counted(self: Tokens, what: str, key: Any) -> Any:
        nonlocal seen
        seen += 1
        return original(self, what, key)

    monkeypatch.setattr(Tokens, "_verified", counted)
    for _ in range(5):
        await tokens.verify(good)
        tokens.verify_now(good)
    assert seen == 1
    clock[0] += 121
    assert (await cause(tokens, good)).metadata["cause"] == "expired"


async def test_a_grants_file_wins_over_the_token(jwks: Path, tmp_path: Path) -> None:
    path = tmp_path / "grants.json"
    path.write_text('{"ana": {}, "ben": {"b": ["writer"]}}')
    tokens = Tokens(Issuer(LOCAL_ISSUER, FileKeys(jwks)), Grants(path))
    assert str((await tokens.verify(token())).rights) == "none"
    assert str((await tokens.verify(token(sub="ben"))).rights) == "b=writer"
    assert str((await tokens.verify(token(sub="cem"))).rights) == "a=reader"
    path.write_text("[")
    with pytest.raises(errors.Starting, match="GRANTS_FILE"):
        await Authenticator(Principals(None), tokens).caller(f"Bearer {token()}")


@pytest.mark.parametrize(
    ("claim", "claims"),
    [
        ("realm_access.roles", {"realm_access": {"roles": ["a:writer", "offline_access"]}}),
        ("https://millrace.dev/roles", {"https://millrace.dev/roles": {"a": ["writer"]}}),
    ],
)
async def test_roles_are_where_the_issuer_puts_them(jwks: Path, claim: str, claims: dict[str, Any]) -> None:
    tokens = Tokens(Issuer(LOCAL_ISSUER, FileKeys(jwks), roles_claim=claim), Grants(None))
    assert str((await tokens.verify(token(**claims))).rights) == "a=writer"


async def test_the_laptops_issuer_signs_for_its_services(tmp_path: Path) -> None:
    made = sign(tmp_path, "ana", {"a": ["reader"], "b.t": ["writer"]}, 60)
    tokens = Tokens(Issuer(LOCAL_ISSUER, FileKeys(tmp_path / "issuer" / "jwks.json")), Grants(None))
    assert str((await tokens.verify(made)).rights) == "a=reader, b.t=writer"
    assert (tmp_path / "issuer" / "key.pem").stat().st_mode & 0o777 == 0o600
    assert sign(tmp_path, "ana", {}, 60) != made  # the same key goes on
    (tmp_path / "issuer" / "key.pem").unlink()
    sign(tmp_path, "ana", {}, 60)
    assert (await cause(tokens, sign(tmp_path, "x", {}, 60, "other"))).metadata["cause"] == "audience"
    assert (await cause(tokens, made)).metadata["cause"] == "key", "the old key is gone, and what it had signed"


# -- an issuer over HTTP -------------------------------------------------------------------------------------------------
class OidcIssuer:
    """Discovery and JWKS on loopback. `keys` and `broken` change what it says."""

    def __init__(self) -> None:
        self.keys, self.broken, self.asked = [public("ed", ED)], False, 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked += 1
                found: Any = (
                    {"keys": outer.keys}
                    if self.path == "/keys"
                    else {"issuer": outer.url, "jwks_uri": f"{outer.url}/keys"}
                )
                self.send_response(500 if outer.broken else 200)
                self.end_headers()
                self.wfile.write(json.dumps(found).encode())

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def oidc() -> Iterator[OidcIssuer]:
    made = OidcIssuer()
    yield made
    made.close()


async def test_keys_are_found_by_discovery_and_rotate(oidc: OidcIssuer) -> None:
    clock = [1000.0]
    keys = IssuerKeys(oidc.url, clock=lambda: clock[0])
    tokens = Tokens(Issuer(oidc.url, keys), Grants(None))
    old, new = token(iss=oidc.url), token(RSA, "RS256", "rsa", iss=oidc.url)
    await tokens.verify(old)
    assert (await cause(tokens, new)).metadata["cause"] == "key"
    oidc.keys, asked = [public("rsa", RSA)], oidc.asked
    assert (await cause(tokens, new)).metadata["cause"] == "key"
    assert oidc.asked == asked, "made-up ids do not make this process hammer the issuer"
    clock[0] += keys_module.UNKNOWN_KID_S
    assert (await tokens.verify(new)).principal == "ana"
    assert (await cause(tokens, old)).metadata["cause"] == "key", "what was remembered ended with its key"


async def test_an_unreachable_issuer_is_lived_with_for_a_while(oidc: OidcIssuer) -> None:
    clock = [1000.0]
    keys = IssuerKeys(oidc.url, max_age_s=3600, clock=lambda: clock[0])
    tokens = Tokens(Issuer(oidc.url, keys), Grants(None))
    await tokens.verify(token(iss=oidc.url))
    oidc.broken = True
    clock[0] += 3000
    assert not await keys.refresh()
    await tokens.verify(token(iss=oidc.url, jti="2"))
    assert keys.problem() == ""
    clock[0] += 3000
    assert "for 100 min" in keys.problem()
    with pytest.raises(errors.Starting, match="cannot be read"):
        await tokens.verify(token(iss=oidc.url, jti="3"))
    oidc.broken = False
    assert await keys.refresh()
    await tokens.verify(token(iss=oidc.url, jti="3"))


async def test_without_any_keys_it_says_what_where_and_what_to_do(oidc: OidcIssuer) -> None:
    oidc.close()
    keys = IssuerKeys(oidc.url)
    assert not await keys.refresh()
    assert keys.never_read()
    for part in (oidc.url, "openid-configuration", "MILLRACE_ISSUER", "refused"):
        assert part in keys.problem()


@pytest.mark.parametrize("url", ["http://issuer.example", "ftp://x", "issuer.example", "file:///etc/passwd"])
def test_keys_never_come_in_the_clear(url: str) -> None:
    assert "https://" in check_url(url)
