"""Who may append what, next: contracts.md W2 (epochs) and W3 (offsets), as pure functions of a writer's record."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum

from millrace import errors
from svc_storage.ports import BatchMark, WriterState

MAX_EPOCH = (1 << 23) - 1
MAX_OFFSET = 1 << 40
KEPT_MARKS = 64
_WRITER_ID = re.compile(r"[A-Za-z0-9._/-]{1,128}")


def check_writer_id(writer_id: str, *, field: str = "open.writer_id") -> None:
    """Raises FieldInvalid."""
    if not _WRITER_ID.fullmatch(writer_id):
        raise errors.FieldInvalid("a writer id is 1 to 128 of [A-Za-z0-9._/-]", field=field)
    if any(segment in ("", ".", "..") for segment in writer_id.split("/")):
        raise errors.FieldInvalid("no segment of a writer id is empty, `.` or `..`", field=field)
    if writer_id.startswith("millrace."):
        raise errors.FieldInvalid("writer ids that begin with `millrace.` are reserved", field=field)


@dataclass(frozen=True, slots=True)
class EpochClaim:
    """What `open` says. `epoch` 0 = the next one. `lease_epoch`: the current epoch of `lease`, 0 when there is none."""

    epoch: int
    principal: str
    lease: str = ""
    lease_epoch: int = 0


def take_epoch(stored: WriterState | None, claim: EpochClaim) -> WriterState:
    """W2: the writer's record under the claimed epoch. It equals `stored` when the epoch goes on (no commit needed).

    Raises NotAllowed (another principal's writer), WriterFenced, LeaseLost, FieldInvalid."""
    if not 0 <= claim.epoch <= MAX_EPOCH:
        raise errors.FieldInvalid(f"an epoch is 0 to {MAX_EPOCH}", field="open.epoch")
    if stored and stored.owner and stored.owner != claim.principal:
        raise errors.NotAllowed(
            "the writer belongs to another principal", field="open.writer_id", hint="choose another writer id"
        )
    current = stored.epoch if stored else 0
    if claim.lease:
        if claim.epoch == 0:
            raise errors.FieldInvalid("with a lease, the epoch is the one that Acquire gave", field="open.epoch")
        check_lease(claim.lease, claim.epoch, claim.lease_epoch)
    wanted = claim.epoch or current + 1
    if wanted > MAX_EPOCH:
        raise errors.FieldInvalid(
            "the writer's epochs are used up", field="open.writer_id", hint="choose another writer id"
        )
    if wanted < current:
        raise errors.WriterFenced("a newer epoch of this writer is open", metadata={"epoch": str(current)})
    if claim.epoch > current and not claim.lease:
        raise errors.WriterFenced(
            "an epoch above the stored one needs a lease",
            metadata={"epoch": str(current)},
            hint="send epoch 0 to take the next one",
        )
    if stored and wanted == current:
        return stored if not claim.lease or stored.lease == claim.lease else replace(stored, lease=claim.lease)
    base = stored or WriterState(epoch=0)
    return replace(base, epoch=wanted, owner=claim.principal, lease=claim.lease, marks=base.marks)


def check_lease(lease: str, epoch: int, lease_epoch: int) -> None:
    """Raises LeaseLost when the lease has moved on, also WriterFenced's case of a lease that never was."""
    if epoch != lease_epoch:
        raise errors.LeaseLost(f"lease {lease} has another epoch", metadata={"epoch": str(lease_epoch)}, hint="stop")


class Verdict(Enum):
    """WRITE: new rows. DUPLICATE: stored already, acknowledge. MOVE: no rows, the position moves."""

    WRITE = "WRITE"
    DUPLICATE = "DUPLICATE"
    MOVE = "MOVE"


def judge(next_offset: int, marks: Iterable[BatchMark], batch: BatchMark) -> Verdict:
    """W3: a batch of n = `batch.rows` rows (dead letters included) at `batch.offset`.

    Raises OffsetGap, OffsetOverlap (metadata next_offset), OffsetContentMismatch, FieldInvalid."""
    if not 0 <= batch.offset < MAX_OFFSET or batch.offset + batch.rows >= MAX_OFFSET:
        raise errors.FieldInvalid("an offset is in [0, 2^40)", field="batch.offset")
    if batch.offset == next_offset:
        return Verdict.WRITE if batch.rows else Verdict.MOVE
    where = {"next_offset": str(next_offset)}
    if batch.offset > next_offset:
        raise errors.OffsetGap(
            "rows are missing before this batch", metadata=where, hint="open again, send from opened.next_offset"
        )
    if batch.offset + batch.rows > next_offset:
        raise errors.OffsetOverlap(
            "the batch straddles what is stored", metadata=where, hint="open again, send from opened.next_offset"
        )
    for kept in marks:
        if (kept.offset, kept.rows) == (batch.offset, batch.rows) and kept.crc32 != batch.crc32:
            raise errors.OffsetContentMismatch(
                "the same offset carried other bytes before",
                metadata=where,
                hint="read the source at opened.position, under the next epoch",
            )
    return Verdict.DUPLICATE


def advance(state: WriterState, moved: WriterState) -> WriterState:
    """The record after a commit that carried `moved` (whose marks are that commit's batches only)."""
    return replace(moved, marks=(*state.marks, *moved.marks)[-KEPT_MARKS:])
