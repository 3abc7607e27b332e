"""The token issuer of one MILLRACE_HOME: a key pair that signs, and the JWKS file that the services read.

`issuer/key.pem` (0600) never leaves the folder; `issuer/jwks.json` holds the public half. Deleting both ends every token at once.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Mapping
from pathlib import Path

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from millrace import errors
from millrace.laptop.home import write_private
from millrace.server.rights import INCLUDED
from millrace.server.tokens import AUDIENCE, LOCAL_ISSUER, ROLES_CLAIM

ALGORITHM = "EdDSA"
ROLES = tuple(INCLUDED)
_AGAIN = "remove it and sign anew: every token that it signed ends"


def sign(home: Path, principal: str, rights: Mapping[str, list[str]], lives_s: int, audience: str = AUDIENCE) -> str:
    """A token that the services of `home` take, for `lives_s` seconds. Makes the key with the first one. Raises FieldInvalid, OSError."""
    key, kid = _key(home)
    now = int(time.time())
    claims = {
        "iss": LOCAL_ISSUER,
        "sub": principal,
        "aud": audience,
        "iat": now,
        "nbf": now,
        "exp": now + lives_s,
        "jti": secrets.token_hex(8),
        ROLES_CLAIM: dict(rights),
    }
    return jwt.encode(claims, key, algorithm=ALGORITHM, headers={"kid": kid})


def _key(home: Path) -> tuple[Ed25519PrivateKey, str]:
    folder = home / "issuer"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / "key.pem"
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except FileNotFoundError:
        key = Ed25519PrivateKey.generate()
        kinds = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        write_private(path, key.private_bytes(*kinds).decode())
    except ValueError as error:
        raise errors.FieldInvalid(f"{path} is damaged", hint=_AGAIN) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise errors.FieldInvalid(f"{path} is no Ed25519 key", hint=_AGAIN)
    raw = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    kid = hashlib.sha256(raw).hexdigest()[:16]
    public = {
        **json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(key.public_key())),
        "kid": kid,
        "use": "sig",
        "alg": ALGORITHM,
    }
    said = json.dumps({"keys": [public]}, indent=1) + "\n"
    jwks = folder / "jwks.json"
    if not jwks.exists() or jwks.read_text() != said:
        write_private(jwks, said)
    return key, kid
