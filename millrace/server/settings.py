"""Settings from the environment, all faults listed at once.

reader = Env(env, "MILLRACE_STORAGE_")
settings = Settings(commit_interval_ms=reader.integer("COMMIT_INTERVAL_MS", 500, low=100, high=60_000))
reader.done()                     # raises SettingsError with every bad, missing and unknown name
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NewType, TypeVar

T = TypeVar("T")

_TRUE, _FALSE = frozenset({"1", "true", "yes", "on"}), frozenset({"0", "false", "no", "off"})
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m|h|d)")
_MILLISECONDS = {"us": 0.001, "ms": 1.0, "s": 1e3, "m": 6e4, "h": 3.6e6, "d": 8.64e7}

Milliseconds = NewType("Milliseconds", int)


class Secret:
    """A value that no repr, str, log line or traceback shows. `reveal()` at the one place that needs it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> Any:
        raise TypeError("a secret is not pickled")


class SettingsError(Exception):
    """The environment cannot be used. `faults`: one sentence per name, all of them."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(self.faults))


class Env:
    """Reads names below one prefix, notes every fault, and never raises before `done`.

    A value that is bad or missing reads as the default (or an empty value of the type), so that reading can go on.
    """

    def __init__(self, env: Mapping[str, str], prefix: str) -> None:
        self._env, self._prefix = env, prefix
        self._known: set[str] = set()
        self._faults: list[str] = []

    def fault(self, name: str, what: str) -> None:
        """Notes a fault that only the caller can see, for instance two settings that contradict each other."""
        self._faults.append(f"{self._prefix}{name} {what}")

    def _raw(self, name: str, required: bool) -> str | None:
        self._known.add(self._prefix + name)
        value = self._env.get(self._prefix + name)
        if value is None or value == "":
            if required:
                self.fault(name, "is missing")
            return None
        return value

    def text(self, name: str, default: str | None = None, *, choices: Iterable[str] = ()) -> str:
        value = self._raw(name, default is None)
        if value is None:
            return default or ""
        if (allowed := tuple(choices)) and value not in allowed:
            self.fault(name, f"is {value!r}; one of {', '.join(allowed)} is expected")
            return default or allowed[0]
        return value

    def secret(self, name: str) -> Secret | None:
        value = self._raw(name, required=False)
        return None if value is None else Secret(value)

    def integer(self, name: str, default: int | None = None, *, low: int | None = None, high: int | None = None) -> int:
        return int(self._number(name, default, int, "a whole number", low, high))

    def number(
        self, name: str, default: float | None = None, *, low: float | None = None, high: float | None = None
    ) -> float:
        return self._number(name, default, float, "a number", low, high)

    def _number(
        self,
        name: str,
        default: float | None,
        kind: type[int] | type[float],
        what: str,
        low: float | None,
        high: float | None,
    ) -> float:
        value = self._raw(name, default is None)
        if value is None:
            return default or 0
        try:
            number = kind(value)
        except ValueError:
            self.fault(name, f"is {value!r}; {what} is expected")
            return default or 0
        if (low is not None and not number >= low) or (high is not None and not number <= high):
            bounds = f"{'' if low is None else low}..{'' if high is None else high}"
            self.fault(name, f"is {value}; {what} in {bounds} is expected")
            return default or 0
        return number

    def boolean(self, name: str, default: bool = False) -> bool:
        value = self._raw(name, required=False)
        if value is None:
            return default
        if value.lower() not in _TRUE | _FALSE:
            self.fault(name, f"is {value!r}; true or false is expected")
            return default
        return value.lower() in _TRUE

    def duration_ms(self, name: str, default: int, *, low: int = 0, high: int | None = None) -> int:
        """Milliseconds of `500ms`, `30s`, `1h`; a bare number is milliseconds too."""
        value = self._raw(name, required=False)
        if value is None:
            return default
        matched = _DURATION.fullmatch(value if not value.isdigit() else value + "ms")
        if matched is None:
            self.fault(name, f"is {value!r}; a duration such as 500ms, 30s or 1h is expected")
            return default
        found = round(float(matched[1]) * _MILLISECONDS[matched[2]])
        if found < low or (high is not None and found > high):
            self.fault(name, f"is {value}; {low}ms..{'' if high is None else f'{high}ms'} is expected")
            return default
        return found

    def path(self, name: str, default: Path | None = None, *, must_exist: bool = False) -> Path:
        """Absolute, `~` expanded, links kept."""
        value = self._raw(name, default is None)
        if value is None:
            return (default or Path()).expanduser().absolute()
        found = Path(value).expanduser().absolute()
        if must_exist and not found.exists():
            self.fault(name, f"names {value}, which does not exist")
        return found

    def paths(self, name: str, default: Iterable[Path] = (), *, separator: str = ":") -> tuple[Path, ...]:
        value = self._raw(name, required=False)
        found = default if value is None else (Path(part) for part in value.split(separator) if part)
        return tuple(one.expanduser().absolute() for one in found)

    def words(self, name: str, default: Iterable[str] = ()) -> tuple[str, ...]:
        """Words between commas, trimmed, empty ones left out."""
        value = self._raw(name, required=False)
        return tuple(default) if value is None else tuple(word.strip() for word in value.split(",") if word.strip())

    def allow(self, *names: str) -> None:
        """Names that someone else reads: not unknown."""
        self._known.update(self._prefix + name for name in names)

    def faults(self) -> tuple[str, ...]:
        unknown = sorted(name for name in self._env if name.startswith(self._prefix) and name not in self._known)
        return (*self._faults, *(f"{name} is not a setting{self._nearest(name)}" for name in unknown))

    def _nearest(self, name: str) -> str:
        near = difflib.get_close_matches(name, self._known, n=1, cutoff=0.8)
        return f"; did you mean {near[0]}?" if near else ""

    def done(self) -> None:
        """Raises SettingsError when anything was wrong."""
        if faults := self.faults():
            raise SettingsError(faults)


def redacted(settings: object) -> dict[str, str]:
    """Field name -> text, for GetStatus and the start's log line; secrets stay `***`."""
    if not is_dataclass(settings) or isinstance(settings, type):
        return {}
    return {one.name: str(getattr(settings, one.name)) for one in fields(settings)}
