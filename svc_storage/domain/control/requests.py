"""A request that comes twice is answered twice and done once."""

from __future__ import annotations

import time

from millrace.errors import DeadlineTooShort, RequestIdReused
from svc_storage.ports import Answer, Clock, ControlStore, ControlTransaction, RequestMark

KEPT_US = 24 * 3600 * 1_000_000


def answered(tx: ControlTransaction, request: RequestMark, now_us: int) -> bytes | None:
    """The first answer of the last 24 h, None when there is none: then the change follows, so its caller must still be waiting.

    Raises RequestIdReused for another request of that id, DeadlineTooShort."""
    answer = tx.answer(request.principal, request.id, since_us=now_us - KEPT_US)
    if answer is None:
        if request.ends_s is not None and time.monotonic() >= request.ends_s:
            raise DeadlineTooShort("the caller's deadline passed before the change was made", hint="allow more time")
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


class Answers:
    """Of changes that are no transaction of the control store themselves: kept right after them."""

    def __init__(self, store: ControlStore, clock: Clock) -> None:
        self._store, self._clock = store, clock

    async def before(self, request: RequestMark) -> bytes | None:
        """Raises RequestIdReused."""
        now_us = self._clock.now_us()
        return await self._store.run(lambda tx: answered(tx, request, now_us))

    async def keep(self, request: RequestMark, body: bytes) -> None:
        now_us = self._clock.now_us()
        await self._store.run(lambda tx: keep_answer(tx, request, body, now_us))
