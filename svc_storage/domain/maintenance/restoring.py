"""RestoreTable: an older version's rows become the newest version's, by a commit like any other.

Writers keep their offsets and positions: what they sent stays acknowledged and is not sent again. Dead letters and columns stay too.
"""

from __future__ import annotations

from dataclasses import replace

from millrace import errors
from millrace.failpoints import failpoint
from svc_storage.domain.maintenance.reporting import Done, TableReport, Teller
from svc_storage.domain.opened import OpenTable
from svc_storage.domain.writing import rewrite
from svc_storage.domain.writing.schema_change import needs_rewrite
from svc_storage.ports import Clock, Commit, CommitKind, Committed, DataFile, Snapshot, Version

MARGIN_US = 15 * 60 * 1_000_000
"""A file that another replica may be about to remove is not brought back."""


def version_of(table: OpenTable, version: Version | None, as_of_us: int | None) -> Version:
    """The version that is meant. Raises VersionExpired, VersionInFuture, FieldInvalid."""
    if as_of_us is not None:
        return table.version_at(as_of_us)
    if version is None:
        raise errors.FieldRequired("name a version or a time", field="version")
    return table.versions.at(version).version


async def restore(
    table: OpenTable, version: Version, teller: Teller, clock: Clock, *, run: str, keep_files_us: int
) -> None:
    """Nothing is committed when the rows are those already: a run that comes again after a kill ends so.

    Raises VersionExpired, VersionInFuture."""
    teller.check()

    async def turn() -> Committed | None:
        wanted, head = table.versions.at(version), table.versions.head
        if wanted.files.keys() == head.files.keys():
            return None
        await _check_there(table, wanted, head, clock.now_us() + MARGIN_US, keep_files_us)
        if needs_rewrite(wanted.schema, head.schema) and not table.files.widens_in_place:
            wanted = await _widened(table, wanted, head)
        failpoint("storage.before_restore_commit")
        return await table.committer.commit(lambda: _commit(wanted, table.versions.head, run, clock.now_us()))

    done = await table.committer.turn(turn)
    head = table.versions.head
    added, removed = (done.commit.rows_added, done.commit.rows_removed) if done else (0, 0)
    await teller.progress(Done(rows_read=removed, rows_written=added, version=head.version, fraction=1.0))
    notes = (f"{added} rows came back, {removed} went",) if done else ("the table had these rows already",)
    await teller.report(
        TableReport(
            table=table.row.name,
            version=head.version,
            oldest_version=table.oldest,
            files_removed=len(done.commit.removes) if done else 0,
            notes=notes,
        )
    )


async def _widened(table: OpenTable, wanted: Snapshot, head: Snapshot) -> Snapshot:
    """The version with its files written anew in the newest columns: some have become wider since, and columns stay."""
    files: dict[str, DataFile] = {}
    for path, file in wanted.files.items():
        written = (
            None
            if path in head.files
            else await rewrite.write_without(table.files, file, head.schema, lambda rows: rows)
        )
        found = written or file
        files[found.path] = found
    return replace(wanted, files=files)


def _commit(wanted: Snapshot, head: Snapshot, run: str, now_us: int) -> Commit:
    back: list[DataFile] = [
        replace(file, added_in=head.version + 1) for path, file in wanted.files.items() if path not in head.files
    ]
    gone = tuple(file for path, file in head.files.items() if path not in wanted.files)
    return Commit(
        id=f"{run}{head.version + 1}",
        kind=CommitKind.RESTORE,
        time_us=max(now_us, head.time_us),
        adds=tuple(back),
        removes=gone,
    )


async def _check_there(table: OpenTable, wanted: Snapshot, head: Snapshot, by_us: int, keep_files_us: int) -> None:
    """The log kept them; the store must have, too. Raises VersionExpired, FileMissing."""
    needed = wanted.files.keys() - head.files.keys()
    if any((table.versions.goes_us(path, keep_files_us) or by_us) < by_us for path in needed):
        raise errors.VersionExpired(
            f"files of version {wanted.version} are about to go",
            metadata={"oldest_version": str(table.oldest)},
            hint="restore a newer version",
        )
    if needed:
        missing = needed - {path for path, _ in await table.files.list_paths()}
        if missing:
            raise errors.FileMissing(f"file {min(missing)} of version {wanted.version} is missing", hint="run fsck")
