"""What a maintenance run tells while it works, and where it may stop: between two commits, never within one."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol

from svc_storage.ports import Version


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """Totals so far. `fraction`: of what there is to do, 0 to 1."""

    rows_read: int = 0
    rows_written: int = 0
    bytes: int = 0
    version: Version = 0
    fraction: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TableReport:
    """What a run did to one table. Zero and empty: nothing of the kind.

    `gone_us`: when the bytes of everything taken out have left the store. `verified`: a scan of every file at `version` found no
    matching row. `unjudged`: dead letters whose text shows none of the columns asked for. `refresh`: the run of the transform that
    makes the table anew. `notes`: for people."""

    table: str
    rows_erased: int = 0
    dead_letters_erased: int = 0
    unjudged: int = 0
    files_rewritten: int = 0
    files_removed: int = 0
    bytes_removed: int = 0
    versions_expired: int = 0
    oldest_version: Version = 0
    version: Version = 0
    gone_us: int = 0
    verified: bool = False
    refresh: str = ""
    held_by: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that is not as the log says. `code`: machine-readable. `harmless`: no reader can meet it. `version` -1: of none."""

    code: str
    message: str
    path: str = ""
    version: Version = -1
    harmless: bool = False
    repaired: bool = False


class Teller(Protocol):
    """A run, as the work sees it."""

    async def progress(self, done: Done) -> None:
        """Totals; told on at most once a second."""

    async def report(self, report: TableReport) -> None: ...

    async def fault(self, fault: Fault) -> None: ...

    def check(self) -> None:
        """Raises when the run was cancelled (RunCancelled) or its lease is lost (LeaseLost). Call it where nothing is half done."""


class RunCancelled(Exception):
    """Somebody asked the run to end; what was committed stays."""


@dataclass(slots=True)
class Heard:
    """A `Teller` that keeps what it is told: for callers without a run."""

    done: Done = field(default_factory=Done)
    reports: list[TableReport] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    async def progress(self, done: Done) -> None:
        self.done = done

    async def report(self, report: TableReport) -> None:
        self.reports.append(report)

    async def fault(self, fault: Fault) -> None:
        self.faults.append(fault)

    def check(self) -> None:
        """Nobody stops it."""


def add_rows(done: Done, rows: int, size: int = 0) -> Done:
    return replace(done, rows_read=done.rows_read + rows, bytes=done.bytes + size)
