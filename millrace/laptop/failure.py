"""Why `up` ends without serving: one line for people."""

from __future__ import annotations


class UpFailed(Exception):
    """`message`: one clear line. `hint`: what to do, or empty. `log`: the log that has more, or empty."""

    def __init__(self, message: str, *, hint: str = "", log: str = "") -> None:
        super().__init__(message)
        self.message, self.hint, self.log = message, hint, log

    def text(self) -> str:
        more = "".join(f"\n{name}: {value}" for name, value in (("hint", self.hint), ("log", self.log)) if value)
        return f"error: {self.message}{more}"
