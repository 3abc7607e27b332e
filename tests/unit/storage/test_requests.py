"""A caller whose time is up gets no change any more, but still the answer to one that was made in time."""

from __future__ import annotations

import time

import pytest

from millrace.errors import DeadlineTooShort
from svc_storage.adapters.memory.control import MemoryControl
from svc_storage.domain.control.requests import answered, keep_answer
from svc_storage.ports import ControlTransaction, RequestMark


async def change(store: MemoryControl, ends_s: float | None) -> bytes:
    mark = RequestMark("r", "me", "f", ends_s)

    def work(tx: ControlTransaction) -> bytes:
        if (before := answered(tx, mark, 1)) is not None:
            return before
        keep_answer(tx, mark, b"done", 1)
        return b"done"

    return await store.run(work)


async def test_nothing_is_changed_after_the_deadline() -> None:
    store = MemoryControl()
    with pytest.raises(DeadlineTooShort):
        await change(store, time.monotonic())
    assert await store.run(lambda tx: tx.answer("me", "r", since_us=0)) is None
    assert await change(store, time.monotonic() + 60) == b"done"
    assert await change(store, time.monotonic()) == b"done"
    assert await change(store, None) == b"done"
