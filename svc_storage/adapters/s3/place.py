"""The log of a Delta table below a prefix of an object store: what can be seen there is whole and durable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable

from millrace import errors
from svc_storage.adapters.delta.place import LOG, QUARANTINE, create_table, log_name
from svc_storage.adapters.s3.objects import Objects
from svc_storage.ports import Version

READS_AT_ONCE = 16
# How deltalake words what the store, not the commit, is to blame for.
_STORE_FAULTS = (
    "Generic S3 error",
    "error sending request",
    "timed out",
    "403 Forbidden",
    "401 Unauthorized",
    "PermissionDenied",
)


class S3Place:
    """`objects`: those of the table. A commit is a conditional put, tried once."""

    deletes_at_once = 1000
    whole = True

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def handle(self, version: Version | None = None) -> DeltaTable:
        return DeltaTable(self._objects.url, version, storage_options=self._options())

    def create(self, schema: pa.Schema, properties: CommitProperties) -> None:
        first = f"{LOG}/{log_name(0)}"
        if self.exists(first):
            return
        try:
            create_table(self._objects.url, schema, properties, self._options())
        except Exception as error:
            # What is there now may be taken back by a server that just failed: nobody is told of it, and who repeats it finds it.
            if known := self.failure(error):
                raise known from error
            if not self.exists(first):  # else another did it: the uid is the same
                raise
        self._must_be_kept(first)

    def _must_be_kept(self, first: str) -> None:
        """Before a catalog names the table. A server whose disk was full was seen to take a first entry and to list none afterwards."""
        try:
            kept = bool(self.read(first)) and log_name(0) in self.names(LOG)
        except FileNotFoundError:
            kept = False
        if not kept:
            raise errors.StoreUnavailable("the object store did not keep the new table", retry_after_ms=1_000)

    def names(self, folder: str) -> Sequence[str]:
        return [one.key.removeprefix(f"{folder}/") for one in self._objects.look(folder)[1]]

    def exists(self, name: str) -> bool:
        return self._objects.exists(name)

    def read(self, name: str) -> bytes:
        return self._objects.get(name)

    def read_all(self, names: Sequence[str]) -> Iterator[bytes]:
        if len(names) < READS_AT_ONCE:
            yield from map(self.read, names)
            return
        with ThreadPoolExecutor(READS_AT_ONCE, thread_name_prefix="log") as pool:
            yield from pool.map(self.read, names)

    def put(self, name: str, content: bytes) -> None:
        self._objects.put(name, content)

    def put_new(self, name: str, content: bytes) -> bool:
        return self._objects.put_if_absent(name, content)

    def keep(self, names: Sequence[str], folders: Sequence[str]) -> None:
        """It is durable already."""

    def delete(self, names: Sequence[str]) -> None:
        self._objects.delete(names)

    def move_aside(self, name: str) -> None:
        try:
            content = self.read(name)
        except FileNotFoundError:
            return
        self.put(f"{QUARANTINE}/{name.rpartition('/')[2]}", content)
        self.delete([name])

    def is_torn(self, name: str) -> bool:
        return False

    def failure(self, error: Exception) -> errors.MillraceError | None:
        if isinstance(error, errors.MillraceError):
            return error
        if any(fault in str(error) for fault in _STORE_FAULTS):
            return errors.StoreUnavailable("the object store does not answer", retry_after_ms=1_000)
        return None

    def _options(self) -> dict[str, str]:
        return dict(self._objects.storage_options(self._objects.keys()))
