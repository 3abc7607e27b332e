"""Every RPC of every service answers `{}` from grpcurl as a person would type it, and a wrong token nothing at all."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.stack import Stack

pytestmark = [pytest.mark.needs("grpcurl"), pytest.mark.timeout(240)]
AREAS = ("extract", "storage", "transform", "analysis", "viz")
AT_A_TIME = 6
"""Calls: those of streams that stay open end only at their deadline."""
DRAIN = "millrace.admin.v1.AdminService/Drain"
EXPECTED = 55
"""RPCs over the five services, admin's counted five times; fewer means that reflection hides some."""


@dataclass(frozen=True, slots=True)
class Call:
    """One grpcurl call. `text`: both outputs."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


def grpcurl(stack: Stack, area: str, *verb: str, data: str | None = None, token: str | None = None) -> Call:
    """`verb` stands behind the address: "list", or a method; `data` is its request."""
    path = shutil.which("grpcurl", path=str(Path(sys.executable).parent)) or "grpcurl"
    flags = ["-plaintext", "-max-time", "5", "-H", f"authorization: Bearer {stack.token if token is None else token}"]
    body = [] if data is None else ["-d", data]
    command = [path, *flags, *body, stack.endpoints.services[area], *verb]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return Call(done.returncode, done.stdout, done.stderr)


def methods(stack: Stack, area: str) -> list[str]:
    """`package.Service/Method` of each RPC that reflection shows."""
    listed = grpcurl(stack, area, "list")
    assert listed.code == 0, listed.text
    services = [service for service in listed.out.split() if service.startswith("millrace.")]
    names = [name for service in services for name in grpcurl(stack, area, "list", service).out.split()]
    return ["/".join(name.rsplit(".", 1)) for name in names]


def verdict(call: Call) -> str:
    """Empty when the answer is as it should be."""
    if call.code == 0:
        return ""
    if "Code: InvalidArgument" in call.err:
        named = "BadRequest" in call.err or "fieldViolations" in call.err or "field" in call.err.lower()
        return "" if named else "INVALID_ARGUMENT without a field"
    if "Code: DeadlineExceeded" in call.err and call.out.strip():
        return ""  # an open stream that has answered
    return f"code {call.code}"


def test_every_rpc_answers_an_empty_request(stack: Stack) -> None:
    seen = [(area, method) for area in AREAS for method in methods(stack, area) if method != DRAIN]
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        calls = pool.map(lambda one: grpcurl(stack, *one, data="{}"), seen)
        answers = [(one, call, verdict(call)) for one, call in zip(seen, calls, strict=True)]
    wrong = {" ".join(one): f"{why}: {call.text[:400]}" for one, call, why in answers if why}
    assert not wrong, json.dumps(wrong, indent=1)
    assert len(seen) >= EXPECTED, seen


@pytest.mark.parametrize("area", AREAS)
def test_a_wrong_token_gets_nowhere(stack: Stack, area: str) -> None:
    for verb, data in (("list", None), ("millrace.admin.v1.AdminService/GetStatus", "{}")):
        refused = grpcurl(stack, area, verb, data=data, token="wrong")
        assert refused.code != 0
        assert "Unauthenticated" in refused.text or "UNAUTHENTICATED" in refused.text, refused.text


def test_drain_answers_and_the_supervisor_brings_it_back(stack: Stack) -> None:
    """Last: each service ends, and comes back by itself on its port."""
    for area in AREAS:
        answer = grpcurl(stack, area, DRAIN, data="{}")
        assert answer.code == 0, answer.text
