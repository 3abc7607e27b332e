"""An archive below a prefix of a bucket. Files pass through a local temporary one: their checksum is known before they go up, and
checked before a row comes out."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa

from millrace import errors
from svc_storage.adapters.archive.parquet import read_rows, sha256, write_rows
from svc_storage.adapters.disk import from_os_error
from svc_storage.adapters.s3.objects import Objects
from svc_storage.ports import ArchivePart

_CHUNK = 8 << 20


class BucketArchive:
    """`spool`: a folder for temporary files, None = the system's."""

    def __init__(self, objects: Objects, spool: Path | None = None) -> None:
        self._objects, self._spool = objects, spool

    def put(self, name: str, content: bytes) -> None:
        self._objects.put(name, content)

    def get(self, name: str) -> bytes | None:
        try:
            return self._objects.get(name)
        except FileNotFoundError:
            return None

    def write_rows(self, name: str, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> ArchivePart:
        with self._temporary() as path:
            rows = write_rows(str(path), batches, schema)
            part = ArchivePart(f"{name}.parquet", rows, path.stat().st_size, sha256(path))
            self._objects.put_file(part.name, path)
            return part

    def read_rows(self, part: ArchivePart, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        with self._temporary() as path:
            self._fetch(part, path)
            if sha256(path) != part.sha256:
                raise errors.ChecksumMismatch(f"{part.name} of the archive is not the file that was exported")
            with pa.OSFile(str(path), "rb") as source:
                yield from read_rows(source, part.name, schema)

    def _fetch(self, part: ArchivePart, path: Path) -> None:
        try:
            size = self._objects.size(part.name)
            with path.open("wb") as file:
                for start in range(0, size, _CHUNK):
                    file.write(self._objects.get_range(part.name, start, min(size, start + _CHUNK)))
        except FileNotFoundError as missing:
            raise errors.FileMissing(f"{part.name} of the archive is missing") from missing

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[Path]:
        try:
            with tempfile.TemporaryDirectory(dir=self._spool, prefix="archive-") as folder:
                yield Path(folder) / "rows.parquet"
        except OSError as error:
            raise from_os_error(error) from error
