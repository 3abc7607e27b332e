"""What a session sends once more by itself."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest
from cassandra.protocol import ErrorMessage

from millrace import errors
from svc_storage.adapters.cassandra import session as module
from svc_storage.adapters.cassandra.session import Pending

DISTURBED = ErrorMessage(code=0x1700, message="CAS operation result is unknown - proposal accepted by 1", info=None)
"""What a read at SERIAL gets when another conditional write comes between; the driver has no class for it."""


class _Request:
    attempted_hosts = ("node",)


def _answers(monkeypatch: pytest.MonkeyPatch, *told: object) -> None:
    left = list(told)

    def collected(request: _Request) -> Future[Any]:
        answer: Future[Any] = Future()
        one = left.pop(0)
        answer.set_exception(one) if isinstance(one, BaseException) else answer.set_result(one)
        return answer

    monkeypatch.setattr(module, "_collected", collected)


def test_a_read_that_another_write_came_between_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    _answers(monkeypatch, DISTURBED, DISTURBED, [("1",)])
    assert Pending(_Request, "SELECT value FROM meta").rows() == [("1",)]  # type: ignore[arg-type]


def test_a_read_that_is_always_disturbed_says_what_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUSY_S", 0.0)
    _answers(monkeypatch, DISTURBED)
    with pytest.raises(errors.StoreUnavailable, match="another conditional write came between"):
        Pending(_Request, "SELECT value FROM meta").rows()  # type: ignore[arg-type]


def test_a_conditional_write_is_never_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    _answers(monkeypatch, DISTURBED)
    with pytest.raises(errors.OutcomeUnknown):
        Pending(_Request, "INSERT INTO log (n) VALUES (?) IF NOT EXISTS", module._conditional).rows()  # type: ignore[arg-type]
