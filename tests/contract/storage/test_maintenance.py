"""CompactTable, ExpireVersions, RestoreTable and EraseRows on every backend: rows, writers, pinned reads, reports."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pytest

from millrace import errors
from svc_storage.domain.definition import define
from svc_storage.domain.maintenance.compacting import compact_all
from svc_storage.domain.maintenance.erasing import Erasure
from svc_storage.domain.maintenance.expiring import ExpireWish, expire
from svc_storage.domain.maintenance.lineage import Everywhere
from svc_storage.domain.maintenance.reporting import Heard, RunCancelled
from svc_storage.domain.maintenance.restoring import restore
from svc_storage.domain.opened import OpenTable
from svc_storage.domain.reading.pinned import pin
from svc_storage.domain.reading.predicates import Compare, In, Op
from svc_storage.domain.reading.scans import Scan
from svc_storage.domain.retention import Retention
from svc_storage.domain.upkeep import DAY_US, Policy, Upkeep
from svc_storage.domain.versions import newest_first
from svc_storage.domain.writing import rewrite
from svc_storage.domain.writing.appending import Incoming
from svc_storage.domain.writing.dead_letters import ClientDeadLetter
from svc_storage.ports import CommitKind, Derived, Version
from tests.contract.storage.backends import NAME, SCHEMA, Rig, ids, incoming, read, rows

GRACE_US = 60_000_000


class Readers:
    def __init__(self, **at: Version) -> None:
        self.at = at

    async def slowest(self, table_uid: str) -> Version | None:
        return min(self.at.values(), default=None)

    async def of_table(self, table_uid: str) -> Sequence[tuple[str, Version]]:
        return list(self.at.items())


class Made:
    """Which transforms read which table."""

    def __init__(self, **outputs: str) -> None:
        self.outputs, self.asked = outputs, list[str]()

    async def derived(self, table: str) -> Sequence[Derived]:
        short = table.rpartition("/")[2]
        return (
            [Derived(f"transforms/{short}", table.replace(short, self.outputs[short]))] if short in self.outputs else []
        )

    async def ask_refresh(self, transform: str, run_id: str, principal: str) -> str:
        self.asked.append(transform)
        return f"namespaces/default/runs/{run_id}"


def upkeep(rig: Rig, readers: Readers | None = None) -> Upkeep:
    policy = Policy(keep_log_us=0, keep_versions=5, trim_every_us=0, collect_every_us=0)
    return Upkeep(rig.opened, rig.catalog, rig.backend, readers or Readers(), rig.clock, policy)


async def fill(rig: Rig, commits: int, *, count: int = 3, name: str = NAME, dead: Sequence[bytes] = ()) -> None:
    stream = await rig.open(name=name, keep_bad=True)
    offset = stream.opened.next_offset
    for number in range(commits):
        letters = tuple(
            ClientDeadLetter(index, "UNPARSEABLE", "", raw) for index, raw in enumerate(dead if not number else ())
        )
        await stream.append(incoming(offset, count, positions={"f": str(offset)}, dead=letters))
        offset += count + len(letters)
        await stream.settle()
    await stream.finish()


def erasure(*ids_: int, grace_us: int = GRACE_US, **more: object) -> Erasure:
    return Erasure(
        predicate=In("id", ids_),
        run="erase-1/",
        grace_us=grace_us,
        collect_us=0,
        **more,  # type: ignore[arg-type]
    )


async def erase(rig: Rig, what: Erasure, made: Made | None = None) -> Heard:
    heard = Heard()
    await Everywhere(rig.opened, made or Made(), heard, rig.clock).erase(NAME, what, run="erase-1", principal="tester")
    return heard


# -- compact
async def test_compacting_makes_one_file_of_all_and_keeps_rows_in_order(rig: Rig) -> None:
    table = await rig.create()
    await fill(rig, 7)
    before, heard = read(table, table.versions.head), Heard()
    await compact_all(table, heard, rig.clock, run="run/")
    assert len(table.versions.head.files) == 1
    assert read(table, table.versions.head).equals(before)
    assert (heard.reports[0].files_rewritten, heard.done.rows_written, heard.done.fraction) == (7, 21, 1.0)
    await compact_all(table, heard, rig.clock, run="run/")
    assert heard.reports[1].files_rewritten == 0, "twice is once"


# -- expire
async def test_expired_versions_are_refused_and_named_readers_respected(rig: Rig) -> None:
    table = await rig.create()
    await fill(rig, 8)
    heard, readers = Heard(), Readers(slow=4, fast=9)
    await expire(table, ExpireWish(keep=1), readers, heard, rig.clock, keep_files_us=DAY_US)
    assert (table.oldest, heard.reports[0].held_by) == (4, "slow")
    wish = ExpireWish(keep=2, broken=frozenset({"slow"}))
    head = table.head
    await expire(table, wish, readers, heard, rig.clock, keep_files_us=DAY_US)
    assert (table.oldest, heard.reports[1].versions_expired, heard.reports[1].held_by) == (head - 1, head - 5, "")
    with pytest.raises(errors.VersionExpired):
        await table.snapshot(head - 2)
    table = await rig.restart()
    assert table.oldest == head - 1, "it is in the log"
    assert len(ids(table)) == 24


async def test_expiring_by_time_and_when_the_bytes_go(rig: Rig) -> None:
    table = await rig.create()
    await fill(rig, 4)
    await compact_all(table, Heard(), rig.clock, run="")
    middle = table.head
    rig.clock.ahead_us += 60_000_000
    await fill(rig, 1)
    heard = Heard()
    now_us = rig.clock.now_us()
    await expire(
        table, ExpireWish(older_than_us=now_us - 30_000_000), Readers(), heard, rig.clock, keep_files_us=DAY_US
    )
    (report,) = heard.reports
    assert table.oldest == middle == report.oldest_version
    assert report.files_removed == 4
    assert now_us + DAY_US - 120_000_000 < report.gone_us < now_us + DAY_US
    assert await upkeep(rig).collect(table) == []
    rig.clock.ahead_us += DAY_US
    assert len(await upkeep(rig).collect(table)) == 4


# -- retention
DAYS = pa.timestamp("us", "UTC")


async def aged(rig: Rig, *ages: tuple[float | None, ...]) -> OpenTable:
    """One file per argument, of rows so many days old."""
    stream = await rig.open()
    offset = 0
    for part in ages:
        now_us = rig.clock.now_us()
        at = pa.array([None if age is None else now_us - int(age * DAY_US) for age in part], DAYS)
        batch = rows(len(part), offset).set_column(1, SCHEMA.field("at"), at)
        await stream.append(Incoming(offset=offset, rows=batch, crc32=offset, size=batch.nbytes))
        await stream.settle()
        offset += len(part)
    await stream.finish()
    return await rig.opened.table(NAME)


async def test_rows_go_by_whole_files_and_named_readers_are_waited_for(rig: Rig) -> None:
    retention = Retention(keep_rows_us=3 * DAY_US)
    await rig.create(define(SCHEMA, event_time_column="at", retention=retention))
    table = await aged(rig, (9, 8), (7, None), (5, 4), (4, 1), (0.5,))
    keeper = upkeep(rig, Readers(slow=3))
    assert await keeper.retain(table) == 2, "the third file is not read yet, the second has a row without time"
    assert ids(table) == [2, 3, 4, 5, 6, 7, 8]
    assert await upkeep(rig).retain(table) == 2
    head = table.head
    assert await upkeep(rig).retain(table) == 0
    assert table.head == head, "nothing due, nothing committed"
    assert ids(table) == [2, 3, 6, 7, 8]
    assert table.versions.head.writers["w"].next_offset == 9
    rig.clock.ahead_us += 3 * DAY_US
    assert await upkeep(rig).retain(table) == 3
    assert ids(table) == [2, 3]


async def test_an_exact_retention_cuts_files(rig: Rig) -> None:
    retention = Retention(keep_rows_us=3 * DAY_US, exact=True)
    await rig.create(define(SCHEMA, event_time_column="at", retention=retention))
    table = await aged(rig, (9, 8), (7, None), (4, 1), (0.5,))
    assert await upkeep(rig).retain(table) == 4
    assert ids(table) == [3, 5, 6]
    head = table.head
    assert await upkeep(rig).retain(table) == 0
    assert table.head == head


async def test_versions_stay_as_long_as_the_table_says(rig: Rig) -> None:
    retention = Retention(keep_versions_us=7 * DAY_US)
    table = await rig.create(define(SCHEMA, event_time_column="at", retention=retention))
    await fill(rig, 4)
    old = table.head
    before = read(table, table.versions.head)
    await compact_all(table, Heard(), rig.clock, run="")
    keeper = upkeep(rig)
    await keeper.checkpoint(table)
    rig.clock.ahead_us += 6 * DAY_US
    assert await keeper.collect(table) == []
    assert await keeper.trim(table) is None
    assert read(table, await table.snapshot(old)).equals(before)
    heard = Heard()
    await Everywhere(rig.opened, Made(), heard, rig.clock).erase(NAME, erasure(1), run="x", principal="p")
    rig.clock.ahead_us += GRACE_US + 1
    assert len(await keeper.collect(table)) == 5, "an erasure does not wait for retention"
    rig.clock.ahead_us += DAY_US
    assert 1 not in ids(table)


@pytest.mark.parametrize(
    ("retention", "field"),
    [
        (Retention(keep_rows_us=DAY_US - 1), "table.retention.keep_rows"),
        (Retention(keep_rows_us=10_000 * 366 * DAY_US), "table.retention.keep_rows"),
        (Retention(exact=True), "table.retention.exact"),
        (Retention(keep_versions_us=400 * DAY_US), "table.retention.keep_versions"),
    ],
)
def test_a_retention_that_cannot_be_is_refused(retention: Retention, field: str) -> None:
    with pytest.raises(errors.FieldInvalid) as refused:
        define(SCHEMA, event_time_column="at", retention=retention)
    assert refused.value.field == field


def test_rows_without_event_time_cannot_be_kept_by_it() -> None:
    with pytest.raises(errors.FieldInvalid):
        define(SCHEMA, retention=Retention(keep_rows_us=DAY_US))


# -- restore
async def test_a_restore_brings_rows_back_and_writers_go_on(rig: Rig) -> None:
    table = await rig.create()
    await fill(rig, 3)
    old = table.versions.head
    before = ids(table)
    await compact_all(table, Heard(), rig.clock, run="")
    await fill(rig, 2)
    heard = Heard()
    await restore(table, old.version, heard, rig.clock, run="r/", keep_files_us=DAY_US)
    assert ids(table) == before
    assert table.versions.head.writers["w"].next_offset == 15, "what was acknowledged stays so"
    assert table.commits_in(table.head - 1, table.head)[0].commit.kind is CommitKind.RESTORE
    head = table.head
    await restore(table, old.version, heard, rig.clock, run="r/", keep_files_us=DAY_US)
    assert table.head == head, "twice is once"
    with pytest.raises(errors.ChangesNotAppendOnly):
        await pin(table, Scan(NAME, after_version=head - 2), head)
    rig.clock.ahead_us += DAY_US + 1
    await upkeep(rig).collect(table)
    assert ids(table) == before, "the files that came back stay"
    table = await rig.restart()
    assert ids(table) == before


async def test_a_version_that_is_gone_is_not_restored(rig: Rig) -> None:
    table = await rig.create()
    await fill(rig, 3)
    await compact_all(table, Heard(), rig.clock, run="")
    rig.clock.ahead_us += DAY_US
    with pytest.raises(errors.VersionExpired):
        await restore(table, 2, Heard(), rig.clock, run="r/", keep_files_us=DAY_US)
    with pytest.raises(errors.VersionInFuture):
        await restore(table, 99, Heard(), rig.clock, run="r/", keep_files_us=DAY_US)


# -- erase
async def test_an_erasure_leaves_no_trace_of_a_row(rig: Rig) -> None:
    table = await rig.create()
    await fill(rig, 6, dead=[b'{"id": 4, "price": "x"}', b"1,2,3,4", b"?", b'{"id": "99", "at": null}', b'{"no": 1}'])
    pinned = table.head
    table.note_planned(pinned)
    heard = await erase(rig, erasure(4, 8, 1))
    (report,) = heard.reports
    gone = {1, 4, 8}
    assert not gone & set(ids(table))
    assert report.rows_erased == 2, "4 was a dead letter only"
    assert (report.dead_letters_erased, report.unjudged, report.verified) == (2, 2, True)
    assert (report.files_rewritten, report.oldest_version) == (2, table.head)
    with pytest.raises(errors.VersionExpired):
        await table.snapshot(pinned)
    paths = {path for path, _ in await table.files.list_paths()}
    assert await upkeep(rig).collect(table) == [], "readers under way have the grace"
    rig.clock.ahead_us += GRACE_US + 1_000_000
    assert rig.clock.now_us() > report.gone_us
    assert len(await upkeep(rig).collect(table)) == 3
    left = paths - {path for path, _ in await table.files.list_paths()}
    assert len([path for path in left if path.endswith(".parquet")]) == 3
    view = await rig.opened.view(NAME + "$dead_letters")
    raws = read(table, await view.snapshot()).column("raw").to_pylist()
    assert raws == [b"?", b'{"id": "99", "at": null}', b'{"no": 1}']
    table = await rig.restart()
    assert table.oldest == table.head == report.oldest_version
    assert not gone & set(ids(table))
    assert table.versions.head.writers["w"].next_offset == 6 * 3 + 5
    await fill(rig, 1)


async def test_an_erasure_by_a_value_that_breaks_its_type(rig: Rig) -> None:
    table = await rig.create()
    await fill(rig, 1, dead=[b'{"id": "x7", "status": "mine", "price": "abc"}', b'{"id": 1, "status": "other"}'])
    what = Erasure(predicate=Compare("status", Op.EQ, "mine"), run="e/", grace_us=0, collect_us=0)
    heard = await erase(rig, what)
    assert (heard.reports[0].dead_letters_erased, heard.reports[0].unjudged) == (1, 0)
    assert [file.row_count for file in table.versions.head.dead_letters] == [1]


async def test_a_killed_erasure_goes_on_and_its_report_counts_all(rig: Rig) -> None:
    table = await rig.create()
    await fill(rig, 40)

    class Impatient(Heard):
        checks = 0

        def check(self) -> None:
            self.checks += 1
            if self.checks == 3:
                raise RunCancelled

    wanted = tuple(range(0, 120, 3))
    teller = Impatient()
    with pytest.raises(RunCancelled):
        await Everywhere(rig.opened, Made(), teller, rig.clock).erase(NAME, erasure(*wanted), run="x", principal="p")
    assert 0 < len(ids(table)) < 120
    await rig.restart()
    heard = await erase(rig, erasure(*wanted))
    table = await rig.opened.table(NAME)
    assert len(ids(table)) == 80
    assert heard.reports[0].rows_erased == 40


async def test_derived_tables_are_erased_by_the_same_column_or_made_anew(rig: Rig) -> None:
    totals = pa.schema([pa.field("status", pa.string()), pa.field("price", pa.float64())])
    await rig.create()
    await rig.create(define(SCHEMA, event_time_column="at"), name=NAME.replace("orders", "copies"))
    await rig.create(define(totals), name=NAME.replace("orders", "totals"))
    await fill(rig, 2)
    await fill(rig, 2, name=NAME.replace("orders", "copies"))
    made = Made(orders="copies", copies="totals")
    heard = await erase(rig, erasure(1, 2), made)
    assert [report.rows_erased for report in heard.reports] == [2, 2, 0]
    assert [bool(report.refresh) for report in heard.reports] == [False, False, True]
    assert made.asked == ["transforms/copies"]
    copies = await rig.opened.table(NAME.replace("orders", "copies"))
    assert ids(copies) == [0, 3, 4, 5]


async def test_rows_that_come_in_during_an_erasure_are_looked_at(rig: Rig) -> None:
    table = await rig.create()
    await fill(rig, 3)

    class Busy(Heard):
        fed = 0

        async def progress(self, done: object) -> None:
            if self.fed < 3:
                self.fed += 1
                await fill(rig, 1)

    heard = Busy()
    await Everywhere(rig.opened, Made(), heard, rig.clock).erase(NAME, erasure(1, 10), run="x", principal="p")
    assert set(ids(table)) & {1, 10} == set()
    assert heard.reports[0].rows_erased == 2


# -- what followers of the dead letters see
async def test_an_erasure_of_letters_is_a_removing_change_to_their_followers(rig: Rig) -> None:
    table = await rig.create()
    await fill(rig, 2, dead=[b'{"id": 4}', b'{"id": 5}'])
    letters = await rig.opened.view(NAME + "$dead_letters")
    read_through = letters.head
    (file,) = table.versions.head.dead_letters
    swap = rewrite.Swap(kind=CommitKind.MERGE, dead_inputs=(file,), id="e/")
    assert await rewrite.swap(table.committer, swap, now_us=rig.clock.now_us()) is not None
    with pytest.raises(errors.ChangesNotAppendOnly):
        await pin(letters, Scan(letters.row.name, after_version=read_through), letters.head)
    (event,) = newest_first(letters, before=letters.head + 1, limit=1)
    assert (event.kind, event.rows_added, event.rows_removed) == (CommitKind.MERGE, 0, 2)
    (of_rows,) = newest_first(table, before=table.head + 1, limit=1)
    assert (of_rows.rows_added, of_rows.rows_removed) == (0, 0)


async def test_rows_that_go_concern_no_follower_of_dead_letters(rig: Rig) -> None:
    table = await rig.create()
    await fill(rig, 1, dead=[b"?"])
    letters = await rig.opened.view(NAME + "$dead_letters")
    read_through, whole = letters.head, table.versions.head.files
    swap = rewrite.Swap(kind=CommitKind.MERGE, inputs=tuple(whole.values()), id="e/")
    assert await rewrite.swap(table.committer, swap, now_us=rig.clock.now_us()) is not None
    await fill(rig, 1, dead=[b"!"])
    found = await pin(letters, Scan(letters.row.name, after_version=read_through), letters.head)
    assert sum(file.row_count for file in found.files) == 1
