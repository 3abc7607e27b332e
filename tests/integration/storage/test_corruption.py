"""A file that is not what was written: CHECKSUM_MISMATCH with its name, and the other tables go on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from millrace import errors
from svc_storage.adapters.s3.files import S3Files
from svc_storage.domain.opened import OpenTable
from tests.contract.storage.backends import BACKENDS, NAME, Rig, ids, incoming

OTHER = "namespaces/default/tables/other"


@pytest.fixture(params=["local", "s3"])
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    pool = ThreadPoolExecutor(4)
    async with BACKENDS[request.param](tmp_path, pool) as backend:
        built = Rig(tmp_path, backend, pool)
        yield built
        await built.close()


async def filled(rig: Rig, name: str) -> OpenTable:
    table = await rig.create(name=name)
    stream = await rig.open(name=name)
    await stream.append(incoming(0, 500))
    await stream.finish()
    return table


def content(rig: Rig, table: OpenTable, path: str, change: Callable[[bytes], bytes]) -> None:
    """Changes a stored file behind our back."""
    if isinstance(table.files, S3Files):
        objects = table.files._objects
        objects.put(path, change(objects.get(path)))
        table.files._cache.forget(table.files._key(path))
        return
    file = rig.folder / "tables" / table.row.uid / path
    file.chmod(0o600)
    file.write_bytes(change(file.read_bytes()))


def flip(at: float) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        place = int(len(data) * at)
        return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]

    return change


DAMAGE = {
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "zeros at the end": lambda data: data[:-64] + bytes(64),
    "a bit in a page": flip(0.1),
    "a bit in the middle": flip(0.5),
    "text": lambda data: b"<html>not found</html>" * 20,
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_a_damaged_file_is_named_and_other_tables_go_on(rig: Rig, damage: str) -> None:
    table, other = await filled(rig, NAME), await filled(rig, OTHER)
    (file,) = table.versions.head.files.values()
    content(rig, table, file.path, DAMAGE[damage])
    with pytest.raises(errors.ChecksumMismatch) as failed:
        ids(table)
    assert file.path in failed.value.message
    assert ids(other) == list(range(500))
    stream = await rig.open("another")  # appending does not read
    await stream.append(incoming(0, 1))
    await stream.finish()


async def test_a_file_that_is_gone_is_named(rig: Rig) -> None:
    table = await filled(rig, NAME)
    (file,) = table.versions.head.files.values()
    await table.files.remove([file.path])
    with pytest.raises(errors.FileMissing) as failed:
        ids(table)
    assert file.path in failed.value.message


@pytest.mark.parametrize("rig", ["s3"], indirect=True)
async def test_a_damaged_copy_is_no_damaged_file(rig: Rig) -> None:
    table = await filled(rig, NAME)
    copies = [path for path in (rig.folder / "cache").rglob("*") if path.is_file() and path.name != "LOCK"]
    assert copies
    for copy in copies:
        copy.write_bytes(flip(0.5)(copy.read_bytes()))
    assert ids(table) == list(range(500))
    assert table.files._cache.misses == 0, "read by ranges: the next read fetches it anew"
    assert ids(table) == list(range(500))
    assert table.files._cache.misses == 1
