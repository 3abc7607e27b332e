"""The keys of an object store, by reference: `env:NAME` or `file:/path`, read again when a file changes, so that they rotate while
storage runs. What they hold is in no message, log or repr.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from millrace.errors import StoreUnavailable

LOOK_S = 1.0
"""How long a file is trusted to be unchanged. A refusal by the store looks at once."""


@dataclass(frozen=True, slots=True)
class Keys:
    """`number` counts the changes: whoever built something from older ones builds it anew. All empty: the driver finds its own
    (a role of the machine or of the pod)."""

    access_key_id: str = field(default="", repr=False)
    secret_access_key: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)
    number: int = 0


class Credentials:
    """`access_key`, `secret_key` and `session_token` are references or empty. `environment`: where `env:` is looked up. Any thread."""

    def __init__(
        self,
        access_key: str = "",
        secret_key: str = "",
        session_token: str = "",
        *,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._references = (access_key, secret_key, session_token)
        self._environment = environment or {}
        self._guard = threading.Lock()
        self._looked_s = 0.0
        self._seen: tuple[object, ...] = ()
        self._keys = Keys(number=-1)

    def current(self, *, look: bool = False) -> Keys:
        """The keys of now. `look`: do not trust what was read a moment ago. Raises StoreUnavailable naming the reference that cannot
        be read, on the first time only: later, what was read last goes on while the file is being replaced."""
        with self._guard:
            now = time.monotonic()
            if not look and self._seen and now < self._looked_s + LOOK_S:
                return self._keys
            self._looked_s = now
            seen = tuple(_stamp(reference) for reference in self._references)
            if seen != self._seen or look:
                self._read(seen)
            return self._keys

    def _read(self, seen: tuple[object, ...]) -> None:
        try:
            access, secret, token = (self._value(reference) for reference in self._references)
        except StoreUnavailable:
            if self._seen:
                return
            raise
        known = self._keys
        read = Keys(access, secret, token, known.number)
        if not self._seen or read != known:
            self._keys = replace(read, number=known.number + 1)
        self._seen = seen

    def _value(self, reference: str) -> str:
        kind, _, name = reference.partition(":")
        if not reference:
            return ""
        if kind == "env":
            found = self._environment.get(name, "")
        else:
            try:
                found = Path(name).read_text().strip()
            except (OSError, UnicodeDecodeError):
                found = ""
        if not found:
            raise StoreUnavailable(
                f"the object store's credentials: {reference} names nothing that can be read",
                hint="a reference is env:NAME or file:/path, and what it names holds the key alone",
            )
        return found


def _stamp(reference: str) -> object:
    """Changes when the file behind a reference does; links (a mounted secret is one) are followed."""
    if not reference.startswith("file:"):
        return reference
    try:
        found = os.stat(reference.removeprefix("file:"))
    except OSError:
        return None
    return (found.st_ino, found.st_mtime_ns, found.st_size)
