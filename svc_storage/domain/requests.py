"""A request that comes twice is answered twice and done once."""

from __future__ import annotations

from millrace.errors import RequestIdReused
from svc_storage.ports import Answer, ControlTransaction, RequestMark

KEPT_US = 24 * 3600 * 1_000_000


def answered(tx: ControlTransaction, request: RequestMark, now_us: int) -> bytes | None:
    """The first answer of the last 24 h, None when there is none. Raises RequestIdReused for another request of that id."""
    answer = tx.answer(request.principal, request.id, since_us=now_us - KEPT_US)
    if answer is None:
        return None
    if answer.fingerprint != request.fingerprint:
        raise RequestIdReused(
            "this request_id came with another request in the last 24 h",
            field="request_id",
            hint="use a new request_id for a new request",
        )
    return answer.body


def keep_answer(tx: ControlTransaction, request: RequestMark, body: bytes, now_us: int) -> None:
    tx.put_answer(
        request.principal, request.id, Answer(request.fingerprint, body), now_us=now_us, since_us=now_us - KEPT_US
    )
