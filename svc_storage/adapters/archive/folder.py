"""An archive in a folder of this machine, or of a disk that several machines mount."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa

from millrace import errors
from svc_storage.adapters import disk
from svc_storage.adapters.archive.parquet import read_rows, sha256, write_rows
from svc_storage.ports import ArchivePart


class FolderArchive:
    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, name: str, content: bytes) -> None:
        try:
            disk.put(self._root / name, content)
        except OSError as error:
            raise _fault(error, name) from error

    def get(self, name: str) -> bytes | None:
        try:
            return (self._root / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError as error:
            raise disk.from_os_error(error) from error

    def write_rows(self, name: str, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> ArchivePart:
        target = self._root / f"{name}.parquet"
        partial = target.with_suffix(".partial")
        try:
            disk.make_folder(target.parent)
            rows = write_rows(str(partial), batches, schema)
            disk.fsync_file(partial)
            partial.replace(target)
            disk.fsync_folder(target.parent)
            return ArchivePart(f"{name}.parquet", rows, target.stat().st_size, sha256(target))
        except OSError as error:
            raise _fault(error, name) from error
        finally:
            partial.unlink(missing_ok=True)

    def read_rows(self, part: ArchivePart, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        path = self._root / part.name
        try:
            found = sha256(path)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as missing:
            raise errors.FileMissing(f"{part.name} of the archive is missing") from missing
        except OSError as error:
            raise disk.from_os_error(error) from error
        if found != part.sha256:
            raise errors.ChecksumMismatch(f"{part.name} of the archive is not the file that was exported")
        with pa.OSFile(str(path), "rb") as source:
            yield from read_rows(source, part.name, schema)


def _fault(error: OSError, name: str) -> errors.MillraceError:
    """What stands in the way stays there: no later try gets further."""
    if isinstance(error, (NotADirectoryError, IsADirectoryError, FileExistsError)):
        return errors.ResourceExists(
            f"`{name}` does not fit into the archive: a file stands where a folder is needed, or the other way round",
            field="destination",
            hint="choose another destination",
        )
    return disk.from_os_error(error)
