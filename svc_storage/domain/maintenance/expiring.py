"""ExpireVersions: old versions are not served any more, whatever retention says. Their bytes go by the ordinary rule."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from svc_storage.domain.maintenance.reporting import Done, TableReport, Teller
from svc_storage.domain.opened import OpenTable
from svc_storage.ports import Clock, Commit, CommitKind, ReaderMarks, Version


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpireWish:
    """Both given: a version goes only when both let it. `broken`: full names of readers that are not waited for."""

    older_than_us: int | None = None
    keep: int | None = None
    broken: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Floor:
    """The oldest version that stays. `held_by`: the reader that kept it from being higher, "" when none did."""

    version: Version
    held_by: str = ""


async def floor_of(table: OpenTable, wish: ExpireWish, readers: ReaderMarks) -> Floor:
    view = table.versions
    floor = view.head.version
    if wish.keep is not None:
        floor = min(floor, view.head.version - wish.keep + 1)
    if wish.older_than_us is not None:
        young = view.oldest if wish.older_than_us < view.oldest_time_us else view.version_at(wish.older_than_us)
        floor = min(floor, young)
    held_by = ""
    for name, at in sorted(await readers.of_table(table.row.uid)):
        if name not in wish.broken and at < floor:
            floor, held_by = at, name
    return Floor(max(floor, view.oldest), held_by)


async def expire(
    table: OpenTable, wish: ExpireWish, readers: ReaderMarks, teller: Teller, clock: Clock, *, keep_files_us: int
) -> None:
    teller.check()
    before = table.oldest
    floor = await floor_of(table, wish, readers)
    if floor.version > before:
        await close_below(table, clock, floor=floor.version)
    gone_us, files, size = leaving(table, floor.version, keep_files_us)
    await teller.progress(Done(version=table.head, fraction=1.0))
    await teller.report(
        TableReport(
            table=table.row.name,
            versions_expired=floor.version - before,
            oldest_version=floor.version,
            version=table.head,
            files_removed=files,
            bytes_removed=size,
            gone_us=gone_us,
            held_by=floor.held_by,
        )
    )


async def close_below(table: OpenTable, clock: Clock, *, floor: Version | None = None, gone_us: int = 0) -> Version:
    """A commit that ends the versions below `floor` (None: below itself). Its version. `gone_us`: as in `Commit`."""
    id = f"expire-{secrets.token_hex(8)}"

    def make() -> Commit:
        head = table.versions.head
        return Commit(
            id=id,
            kind=CommitKind.FENCE,
            time_us=max(clock.now_us(), head.time_us),
            expire_below=head.version + 1 if floor is None else floor,
            gone_us=gone_us,
        )

    return (await table.committer.turn(lambda: table.committer.commit(make))).version


def leaving(table: OpenTable, floor: Version, keep_files_us: int) -> tuple[int, int, int]:
    """Of the files that only versions below `floor` have: when the last of them goes (0: there are none), how many, their bytes."""
    view = table.versions
    stay = set(view.head.files)
    sizes: dict[str, int] = {}
    for found in view.known_commits():
        if found.version <= floor:
            sizes |= {file.path: file.size_bytes for file in found.commit.removes if file.path not in stay}
    gone = [goes_us for path in sizes if (goes_us := view.goes_us(path, keep_files_us)) is not None]
    return max(gone, default=0), len(gone), sum(sizes.values())
