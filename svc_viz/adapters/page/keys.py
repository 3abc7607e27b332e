"""The key that lets a browser in: made once, kept in MILLRACE_HOME (0600), so that restarts keep browsers signed in."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

KEY_FILE = "page.key"


def load_key(home: Path) -> str:
    """The key of `home`; made when there is none. Two processes that start at once agree on one."""
    path = home / KEY_FILE
    home.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        if key := path.read_text().strip():
            return key
        path.unlink(missing_ok=True)
        return load_key(home)
    key = secrets.token_urlsafe(24)
    with os.fdopen(handle, "w") as file:
        file.write(key + "\n")
        file.flush()
        os.fsync(file.fileno())
    return key


def cookie_value(key: str) -> str:
    """What the cookie carries: not the key itself, so that a leaked cookie is not a link."""
    return hashlib.sha256(b"millrace page cookie\0" + key.encode()).hexdigest()


def secret_of(key: str) -> bytes:
    """The secret that signs Bokeh's session ids."""
    return hashlib.sha256(b"millrace session ids\0" + key.encode()).digest()


def same(left: str, right: str) -> bool:
    """In constant time."""
    return hmac.compare_digest(left.encode(), right.encode())
