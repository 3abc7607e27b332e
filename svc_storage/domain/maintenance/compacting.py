"""CompactTable: every level now, instead of when upkeep finds it due."""

from __future__ import annotations

from svc_storage.domain.maintenance.reporting import Done, TableReport, Teller
from svc_storage.domain.opened import OpenTable
from svc_storage.domain.writing import compaction
from svc_storage.ports import Clock


async def compact_all(table: OpenTable, teller: Teller, clock: Clock, *, run: str) -> None:
    """Until no two neighbours fit one file. Rows and their order stay. A run that was killed goes on with what is left."""
    done, rewritten = Done(), 0
    total = sum(file.size_bytes for file in table.versions.head.files.values()) or 1
    while what := compaction.pick_all(table.versions.head.files.values()):
        teller.check()
        merged = await compaction.merge(table.committer, what, commit_id=run, now_us=clock.now_us())
        if merged is None:  # upkeep was faster
            continue
        rewritten += len(what.inputs)
        rows = sum(file.row_count for file in what.inputs)
        size = done.bytes + sum(file.size_bytes for file in what.inputs)
        done = Done(
            rows_read=done.rows_read + rows,
            rows_written=done.rows_written + rows,
            bytes=size,
            version=merged.version,
            fraction=min(1.0, size / total),
        )
        await teller.progress(done)
    head = table.versions.head
    await teller.report(
        TableReport(table=table.row.name, files_rewritten=rewritten, version=head.version, oldest_version=table.oldest)
    )
