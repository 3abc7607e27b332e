"""Settings of viz: MILLRACE_VIZ_*."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from millrace.server.config import service_env


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    page_port: int = 7400  # of the page's HTTP server; 0: any free one, for tests
    page_host: str = "127.0.0.1"  # 0.0.0.0 behind an ingress
    page_hosts: tuple[str, ...] = ()  # further Host headers to answer to, with port: "millrace.example.org:443"
    user_token_file: Path | None = None  # the person that the page asks analysis as; None: this service
    sign_in: str = "key"  # key: the page's own; ingress: people come with an ingress' token, and see what they may read
    token_cookie: str = "millrace_token"  # where it is when it is not in the header Authorization
    min_interval_ms: int = 500  # least time between two answers of one question, 50–60,000

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:
        """Raises SettingsError listing every fault."""
        reader = service_env(env, "viz")
        laptop = Path(env.get("MILLRACE_HOME") or ".millrace").absolute() / "tokens" / "local.token"
        token = reader.path("USER_TOKEN_FILE", laptop, must_exist=True) if _is_given(env) or laptop.exists() else None
        found = cls(
            page_port=reader.integer("PAGE_PORT", 7400, low=0, high=65535),
            page_host=reader.text("PAGE_HOST", "127.0.0.1"),
            page_hosts=reader.words("PAGE_HOSTS"),
            user_token_file=token,
            sign_in=reader.text("SIGN_IN", "key", choices=("key", "ingress")),
            token_cookie=reader.text("TOKEN_COOKIE", "millrace_token"),
            min_interval_ms=reader.duration_ms("MIN_INTERVAL", 500, low=50, high=60_000),
        )
        reader.allow("USER_TOKEN_FILE")
        reader.done()
        return found

    def user_token(self) -> str:
        """The person's token; empty where the page asks as this service."""
        return self.user_token_file.read_text().strip() if self.user_token_file else ""


def _is_given(env: Mapping[str, str]) -> bool:
    return bool(env.get("MILLRACE_VIZ_USER_TOKEN_FILE"))
