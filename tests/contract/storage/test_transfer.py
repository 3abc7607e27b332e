"""Export and import on every backend: the same rows, order, dead letters and writers, resumable, checked by checksum."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from millrace import errors
from svc_storage.adapters.archive.folder import FolderArchive
from svc_storage.domain.opened import OpenTable
from svc_storage.domain.transfer import archive as archives
from svc_storage.domain.transfer import exporting
from svc_storage.domain.transfer.archive import Manifest, check_destination
from svc_storage.domain.transfer.exporting import Export
from svc_storage.domain.transfer.importing import Import, ImportOf
from svc_storage.domain.writing.dead_letters import ClientDeadLetter
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


def _rows(**changed: object) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest["rows"][0].update(changed)


def _top(**changed: object) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest.update(changed)


def _definition(**changed: object) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        manifest["definition"] = json.dumps({**json.loads(manifest["definition"]), **changed})

    return change


def _writer(**changed: object) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest["writers"]["w"].update(changed)


LIES: dict[str, Callable[[dict[str, Any]], None]] = {
    "another count": _rows(row_count=999),
    "a negative count": _rows(row_count=-1),
    "a count in words": _rows(row_count="9"),
    "another checksum": _rows(sha256="0" * 64),
    "a file outside": _rows(name="../../secret"),
    "an absolute file": _rows(name="/etc/passwd"),
    "a file twice": lambda manifest: manifest["rows"].append(manifest["rows"][0]),
    "a field more": _rows(more=1),
    "other columns": _top(schema=base64.b64encode(pa.schema([("q", pa.int32())]).serialize().to_pybytes()).decode()),
    "no columns": _top(schema=""),
    "no definition": _top(definition=None),
    "a torn definition": _top(definition='{"x":'),
    "an empty definition": _top(definition="{}"),
    "a key of no column": _definition(primary_key=["nope"]),
    "a description in numbers": _definition(description=5),
    "a version in words": _top(version="x"),
    "a time in words": _top(event_time_high_us="x"),
    "a time beyond time": _top(event_time_high_us=1 << 62),
    "an empty writer": _top(writers={"w": {}}),
    "writers in a list": _top(writers=[]),
    "an offset in words": _writer(next_offset="x"),
    "a negative epoch": _writer(epoch=-5),
    "positions of numbers": _writer(positions={"file": 1}),
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_manifest_that_lies_makes_no_table(
    rig: Rig, filled: OpenTable, archive: Archive, tmp_path: Path, lie: str
) -> None:
    await export(rig, filled, archive)
    path = tmp_path / "archive" / "backup" / "manifest.json"
    manifest = json.loads(path.read_bytes())
    LIES[lie](manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(errors.ChecksumMismatch):
        await import_(rig, archive)
    assert [state.row.name for state in await rig.tables.list("default", after_name="", limit=10)] == [NAME]


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"format": "x"}'])
def test_a_manifest_that_is_none(content: bytes) -> None:
    with pytest.raises(errors.ChecksumMismatch):
        Manifest.from_bytes(content)


async def test_what_stands_in_the_way_is_said_and_not_waited_for(
    rig: Rig, filled: OpenTable, archive: Archive, tmp_path: Path
) -> None:
    await export(rig, filled, archive)
    for to in ("backup/manifest.json", "backup/job.json/x"):
        with pytest.raises(errors.ResourceExists):
            await export(rig, filled, archive, to)
    assert archive.get("backup/manifest.json/manifest.json") is None
    assert archive.get("backup/rows") is None


@pytest.mark.parametrize("name", ["", "../x", "/x", "x/", "x//y", "X", "a/../b", "a" * 201, "a b"])
def test_a_destination_stays_in_the_archive(name: str) -> None:
    with pytest.raises(errors.FieldInvalid, match="archive"):
        check_destination(name, field="destination")


def test_spans_cut_by_rows_alone() -> None:
    files = [DataFile(name, 1, rows) for name, rows in (("a", 5), ("b", 0), ("c", 12))]
    cut = [[(span.file.path, span.first, span.last) for span in part] for part in exporting.spans(files, 7)]
    assert cut == [[("a", 0, 5), ("c", 0, 2)], [("c", 2, 9)], [("c", 9, 12)]]
    assert archives.PART_ROWS == 500_000
