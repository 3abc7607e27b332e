"""Secrets by reference: `env:NAME` and `file:PATH`, each from an allow-list. What they hold is in no message, log or repr."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from millrace.errors import FieldInvalid, NotAllowed

MAX_BYTES = 64 * 1024


class ReferencedSecrets:
    def __init__(self, environment: Mapping[str, str], names: Sequence[str], roots: Sequence[Path]) -> None:
        self._environment, self._names, self._roots = environment, names, roots

    def reveal(self, reference: str, *, field: str) -> str:
        kind, colon, rest = reference.partition(":")
        if colon and kind == "env" and rest:
            return self._from_environment(rest, field)
        if colon and kind == "file" and rest:
            return self._from_file(Path(rest), field)
        raise FieldInvalid("a secret is named, never given", field=field, hint="write env:NAME or file:PATH")

    def _from_environment(self, name: str, field: str) -> str:
        if not any(fnmatchcase(name, pattern) for pattern in self._names):
            raise NotAllowed(
                f"`{name[:64]}` is not among the variables that sources may use",
                field=field,
                hint=f"name it {' or '.join(self._names)}, or change MILLRACE_EXTRACT_SECRET_NAMES",
            )
        if not (value := self._environment.get(name)):
            raise FieldInvalid(f"the variable `{name[:64]}` is not set where extract runs", field=field)
        return value

    def _from_file(self, path: Path, field: str) -> str:
        resolved = path.expanduser().resolve()
        if not any(resolved.is_relative_to(root) for root in self._roots):
            raise NotAllowed(
                f"`{path.name}` lies outside of the folders for secrets",
                field=field,
                hint="put it below MILLRACE_HOME/secrets, or change MILLRACE_EXTRACT_SECRET_ROOTS",
            )
        try:
            return resolved.read_bytes()[:MAX_BYTES].decode().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise FieldInvalid(f"the secret `{path.name}` cannot be read where extract runs", field=field) from error
