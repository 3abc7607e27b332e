"""Export and import on every backend: the same rows, order, dead letters and writers, resumable, checked by checksum."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from millrace import errors
from svc_storage.adapters.archive.folder import FolderArchive
from svc_storage.domain.dead_letters import ClientDeadLetter
from svc_storage.domain.opened import OpenTable
from svc_storage.domain.transfer import archive as archives
from svc_storage.domain.transfer import exporting
from svc_storage.domain.transfer.archive import Manifest, check_destination
from svc_storage.domain.transfer.exporting import Export
from svc_storage.domain.transfer.importing import Import, ImportOf
from svc_storage.ports import Archive, DataFile
from tests.contract.storage.backends import NAME, Rig, ids, incoming, read

COPY = NAME + "_copy"


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    spans = exporting.spans
    monkeypatch.setattr(exporting, "spans", lambda files, size=7: spans(files, size))


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return FolderArchive(tmp_path / "archive")


@pytest.fixture
async def filled(rig: Rig) -> OpenTable:
    table = await rig.create()
    stream = await rig.open(keep_bad=True)
    for number in range(5):
        letter = ClientDeadLetter(0, "UNPARSEABLE", "", b"raw %d" % number)
        await stream.append(incoming(number * 6, 5, dead=(letter,), positions={"file": str(number)}))
        await stream.settle()
    return table


async def export(rig: Rig, table: OpenTable, archive: Archive, to: str = "backup") -> Manifest:
    async for _ in Export(table.row, table.versions.head, table.files, archive, to, rig.pool).run():
        pass
    content = archive.get(f"{to}/manifest.json")
    assert content is not None
    return Manifest.from_bytes(content)


async def import_(rig: Rig, archive: Archive, *, uid: str = "", source: str = "backup", name: str = COPY) -> OpenTable:
    what = ImportOf(source, name, uid or uuid.uuid4().hex)
    async for _ in Import(what, archive, rig.backend, rig.catalog, rig.clock, rig.pool).run(rig.request()):
        pass
    return await rig.opened.table(name)


def checksums(manifest: Manifest) -> list[tuple[int, str]]:
    return [(part.row_count, part.sha256) for part in (*manifest.rows, *manifest.dead_letters)]


async def test_a_copy_has_the_same_rows_and_checksums(rig: Rig, filled: OpenTable, archive: Archive) -> None:
    first = await export(rig, filled, archive)
    assert [part.row_count for part in first.rows] == [7, 7, 7, 4]
    copy = await import_(rig, archive)
    assert read(copy, copy.versions.head).sort_by("id").equals(read(filled, filled.versions.head).sort_by("id"))
    assert sum(file.row_count for file in copy.versions.head.dead_letters) == 5
    assert copy.definition.event_time_column == "at"
    again = await export(rig, copy, archive, "again")
    assert checksums(again) == checksums(first)


async def test_writers_go_on_where_they_were(rig: Rig, filled: OpenTable, archive: Archive) -> None:
    await export(rig, filled, archive)
    copy = await import_(rig, archive)
    stream = await rig.open(name=COPY, epoch=1)
    assert (stream.next_offset, stream.opened.positions) == (30, {"file": "4"})
    await stream.append(incoming(30, 3))
    await stream.finish()
    assert ids(copy)[-3:] == [30, 31, 32]


class Breaks:
    """An archive that breaks at one call."""

    def __init__(self, inner: Archive, method: str, at: int) -> None:
        self._inner, self._method, self._left = inner, method, at

    def __getattr__(self, name: str) -> object:
        if name == self._method:
            if not self._left:
                raise errors.StoreUnavailable("the archive went away", retry_after_ms=1)
            self._left -= 1
        return getattr(self._inner, name)


@pytest.mark.parametrize("at", [0, 1, 3])
async def test_what_was_broken_off_goes_on(rig: Rig, filled: OpenTable, archive: Archive, at: int) -> None:
    whole = await export(rig, filled, archive, "whole")
    with pytest.raises(errors.StoreUnavailable):
        await export(rig, filled, Breaks(archive, "write_rows", at))  # type: ignore[arg-type]
    assert archive.get("backup/manifest.json") is None
    assert checksums(await export(rig, filled, archive)) == checksums(whole)

    uid = uuid.uuid4().hex
    with pytest.raises(errors.StoreUnavailable):
        await import_(rig, Breaks(archive, "read_rows", at), uid=uid)  # type: ignore[arg-type]
    with pytest.raises(errors.TableNotFound):
        await rig.opened.table(COPY)
    copy = await import_(rig, archive, uid=uid)
    assert ids(copy) == ids(filled)
    assert len(copy.versions.head.files) == 4


async def test_a_damaged_part_is_named(rig: Rig, filled: OpenTable, archive: Archive, tmp_path: Path) -> None:
    await export(rig, filled, archive)
    part = tmp_path / "archive" / "backup" / "rows" / "000001.parquet"
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    with pytest.raises(errors.ChecksumMismatch, match=r"rows/000001.parquet"):
        await import_(rig, archive)
    part.unlink()
    with pytest.raises(errors.FileMissing, match=r"rows/000001.parquet"):
        await import_(rig, archive)


async def test_what_cannot_be_is_refused(rig: Rig, filled: OpenTable, archive: Archive) -> None:
    with pytest.raises(errors.FileMissing, match="no finished export"):
        await import_(rig, archive)
    await export(rig, filled, archive)
    with pytest.raises(errors.ResourceExists):
        await import_(rig, archive, name=NAME)
    stream = await rig.open()
    await stream.append(incoming(30, 1))
    await stream.finish()
    with pytest.raises(errors.ResourceExists, match="another table or version"):
        await export(rig, filled, archive)
    archive.put("backup/manifest.json", b"{")
    with pytest.raises(errors.ChecksumMismatch, match="manifest"):
        await import_(rig, archive)


@pytest.mark.parametrize("name", ["", "../x", "/x", "x/", "x//y", "X", "a/../b", "a" * 201, "a b"])
def test_a_destination_stays_in_the_archive(name: str) -> None:
    with pytest.raises(errors.FieldInvalid, match="archive"):
        check_destination(name, field="destination")


def test_spans_cut_by_rows_alone() -> None:
    files = [DataFile(name, 1, rows) for name, rows in (("a", 5), ("b", 0), ("c", 12))]
    cut = [[(span.file.path, span.first, span.last) for span in part] for part in exporting.spans(files, 7)]
    assert cut == [[("a", 0, 5), ("c", 0, 2)], [("c", 2, 9)], [("c", 9, 12)]]
    assert archives.PART_ROWS == 500_000
