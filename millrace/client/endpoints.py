"""Where the services are and with which token: given, or found in MILLRACE_HOME/endpoints.json as `make up` writes it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from millrace import errors

HOME_VARIABLE = "MILLRACE_HOME"
TOKEN_VARIABLE = "MILLRACE_TOKEN_FILE"
DEFAULT_HOME = ".millrace"
SERVICES = ("extract", "storage", "transform", "analysis", "viz")


class FileToken:
    """The token in a file, read again when the file changed. Its repr hides it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = -1
        self._token = ""

    def __call__(self) -> str:
        """Raises NotAllowed when the file cannot be read."""
        try:
            changed = self._path.stat().st_mtime_ns
            if changed != self._seen:
                self._token, self._seen = self._path.read_text().strip(), changed
        except OSError as error:
            raise errors.NotAllowed(
                f"the token file cannot be read ({error.strerror})", hint="is this your MILLRACE_HOME?"
            ) from error
        return self._token

    def __repr__(self) -> str:
        return "FileToken(***)"


class FixedToken:
    """A token that is given. Its repr hides it."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self) -> str:
        return self._token

    def __repr__(self) -> str:
        return "FixedToken(***)"


@dataclass(frozen=True, slots=True)
class Endpoints:
    """`targets`: service -> "host:port". `url`: the page, empty when unknown. `store_id`: allows direct reads of local files."""

    targets: Mapping[str, str]
    token: FileToken | FixedToken = field(default_factory=lambda: FixedToken(""))
    url: str = ""
    store_id: str = ""

    @classmethod
    def find(cls, home: str | Path | None = None) -> Self:
        """Reads `home`/endpoints.json; without `home`, MILLRACE_HOME or ./.millrace. MILLRACE_TOKEN_FILE names another token. Raises
        Missing when nothing was started there."""
        folder = Path(home or os.environ.get(HOME_VARIABLE) or DEFAULT_HOME)
        path = folder / "endpoints.json"
        try:
            found = json.loads(path.read_text())
            targets = {str(name): str(target) for name, target in found["services"].items()}
            token_file = folder / (os.environ.get(TOKEN_VARIABLE) or str(found["token_file"]))
        except FileNotFoundError as error:
            raise errors.Missing(
                f"no endpoints.json in {folder}",
                hint="start Millrace there (`make up`), set MILLRACE_HOME, or name the targets",
            ) from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise errors.FieldInvalid(f"{path} is not what `make up` writes", hint="start it again") from error
        return cls(targets=targets, token=FileToken(token_file), url=str(found.get("url", "")))

    def target(self, service: str) -> str:
        """Raises Missing naming the service."""
        try:
            return self.targets[service]
        except KeyError:
            raise errors.Missing(
                f"no address of the {service} service is known", hint=f'connect({service}="host:port")'
            ) from None
