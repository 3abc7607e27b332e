"""W2 and W3 by property: whatever arrives in whatever order, each row of a writer is taken once, in order."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from millrace import errors
from svc_storage.domain.writing.writers import (
    KEPT_MARKS,
    MAX_EPOCH,
    MAX_OFFSET,
    EpochClaim,
    Verdict,
    advance,
    check_writer_id,
    judge,
    take_epoch,
)
from svc_storage.ports import BatchMark, WriterState

offsets = st.integers(0, 200)
sizes = st.integers(0, 20)


@given(offsets, offsets, sizes)
def test_judge_is_total_and_exact(next_offset: int, offset: int, rows: int) -> None:
    batch = BatchMark(offset, rows, 0)
    if offset == next_offset:
        assert judge(next_offset, (), batch) is (Verdict.WRITE if rows else Verdict.MOVE)
    elif offset > next_offset:
        with pytest.raises(errors.OffsetGap) as gap:
            judge(next_offset, (), batch)
        assert gap.value.metadata == {"next_offset": str(next_offset)}
    elif offset + rows <= next_offset:
        assert judge(next_offset, (), batch) is Verdict.DUPLICATE
    else:
        with pytest.raises(errors.OffsetOverlap) as overlap:
            judge(next_offset, (), batch)
        assert overlap.value.metadata == {"next_offset": str(next_offset)}


@pytest.mark.parametrize("offset", [-1, MAX_OFFSET, MAX_OFFSET - 1])
def test_offsets_beyond_what_the_log_can_hold(offset: int) -> None:
    with pytest.raises(errors.FieldInvalid):
        judge(max(offset, 0), (), BatchMark(offset, 1, 0))


def test_content_is_compared_only_where_offset_and_size_are_known() -> None:
    marks = (BatchMark(0, 5, 111), BatchMark(5, 5, 222))
    assert judge(10, marks, BatchMark(0, 5, 111)) is Verdict.DUPLICATE
    assert judge(10, marks, BatchMark(0, 4, 999)) is Verdict.DUPLICATE
    with pytest.raises(errors.OffsetContentMismatch):
        judge(10, marks, BatchMark(5, 5, 111))


def test_the_newest_64_marks_are_kept() -> None:
    state = WriterState(epoch=1)
    for number in range(100):
        state = advance(state, WriterState(epoch=1, next_offset=number + 1, marks=(BatchMark(number, 1, number),)))
    assert [mark.offset for mark in state.marks] == list(range(100 - KEPT_MARKS, 100))


class Source(RuleBasedStateMachine):
    """A source of rows 0, 1, 2, … whose client resends as it likes; the store takes what `judge` lets through."""

    def __init__(self) -> None:
        super().__init__()
        self.stored: list[int] = []

    @rule(offset=offsets, rows=sizes)
    def send(self, offset: int, rows: int) -> None:
        try:
            verdict = judge(len(self.stored), (), BatchMark(offset, rows, 0))
        except errors.Reload:
            return
        if verdict is Verdict.WRITE:
            self.stored += range(offset, offset + rows)

    @rule(rows=sizes)
    def send_next(self, rows: int) -> None:
        self.send(offset=len(self.stored), rows=rows)

    @precondition(lambda self: self.stored)
    @rule(back=st.integers(1, 30), rows=sizes)
    def resend(self, back: int, rows: int) -> None:
        self.send(offset=max(0, len(self.stored) - back), rows=rows)

    @invariant()
    def each_row_once(self) -> None:
        assert self.stored == list(range(len(self.stored)))


TestSource = Source.TestCase
TestSource.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


# -- epochs
epochs = st.integers(0, 6)


@given(st.none() | st.integers(1, 5), epochs, st.booleans(), epochs)
def test_an_epoch_never_falls_and_rises_only_as_allowed(
    stored: int | None, asked: int, leased: bool, lease_epoch: int
) -> None:
    before = None if stored is None else WriterState(epoch=stored, next_offset=7, owner="ada")
    current = stored or 0
    claim = EpochClaim(asked, "ada", "lease" if leased else "", lease_epoch if leased else 0)
    try:
        after = take_epoch(before, claim)
    except errors.WriterFenced:
        assert asked < current or (asked > current and not leased)
    except errors.LeaseLost:
        assert leased
        assert asked != lease_epoch
    except errors.FieldInvalid:
        assert leased
        assert asked == 0
    else:
        assert after.epoch >= current
        assert after.next_offset == (7 if before else 0), "offsets go on over epochs"
        assert after.epoch == (asked or current + 1)
        if after.epoch > current + 1:
            assert leased
        if leased:
            assert after.epoch == lease_epoch


def test_the_first_epoch_is_one() -> None:
    assert take_epoch(None, EpochClaim(0, "ada")).epoch == 1


def test_epochs_end() -> None:
    with pytest.raises(errors.FieldInvalid):
        take_epoch(WriterState(epoch=MAX_EPOCH), EpochClaim(0, "ada"))
    with pytest.raises(errors.FieldInvalid):
        take_epoch(None, EpochClaim(MAX_EPOCH + 1, "ada"))


def test_a_writer_is_its_first_principals() -> None:
    with pytest.raises(errors.NotAllowed):
        take_epoch(WriterState(epoch=1, owner="ada"), EpochClaim(0, "bob"))


@pytest.mark.parametrize("good", ["w", "sources/default/orders", "A.b-c_d", "x" * 128])
def test_writer_ids(good: str) -> None:
    check_writer_id(good)


@pytest.mark.parametrize(
    "bad", ["", "a//b", "/a", "a/", "a/../b", ".", "ä", "a b", "x" * 129, "millrace.compact", "a\n"]
)
def test_bad_writer_ids(bad: str) -> None:
    with pytest.raises(errors.FieldInvalid):
        check_writer_id(bad)
