"""PlanRead, ReadRows, ListSplitFiles: stateless over tokens, so that a cut read goes on with exactly the next row, anywhere."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

import pyarrow as pa

from millrace.errors import BackendCapability, FieldInvalid, TokenMismatch
from svc_storage.domain.reading.pinned import Pinned, pin
from svc_storage.domain.reading.plan import WHOLE, Range, split
from svc_storage.domain.reading.plans import KEPT_US
from svc_storage.domain.reading.predicates import Predicate
from svc_storage.domain.reading.rows import Chunk, RowReader
from svc_storage.domain.reading.scans import Scan, decode, encode, fingerprint
from svc_storage.domain.reading.tokens import (
    MAX_BYTES,
    Place,
    ResumeToken,
    SplitToken,
    decode_resume,
    decode_split,
    encode_resume,
    encode_split,
)
from svc_storage.ports import Clock, ControlStore, Direct, OpenTables, TableView, Version

_TOKEN_ROOM = 160  # bytes of a split token besides its scan


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadWish:
    """What PlanRead asks. `version` and `as_of_us` None: the newest. `refine`: a split token of this very request, or empty."""

    scan: Scan
    table_uid: str = ""
    version: Version | None = None
    as_of_us: int | None = None
    preferred_splits: int = 0
    max_splits: int = 0
    refine: bytes = b""


@dataclass(frozen=True, slots=True)
class PlannedSplit:
    token: bytes
    rows: int
    bytes: int
    direct: bool


@dataclass(frozen=True, slots=True)
class ReadPlan:
    pinned: Pinned
    splits: Sequence[PlannedSplit]
    expire_us: int


@dataclass(frozen=True, slots=True)
class SplitFile:
    """`url`: `file://…`, absolute, or a presigned one that holds until `expire_us`."""

    id: str
    url: str
    size_bytes: int
    row_count: int
    expire_us: int | None = None


@dataclass(frozen=True, slots=True)
class SplitFiles:
    """`table`: full name of the table they are of."""

    table: str
    files: Sequence[SplitFile]
    schema: pa.Schema
    schema_id: int
    residual: Predicate | None


@dataclass(frozen=True, slots=True)
class DirectAccess:
    """Whether callers may open the files themselves; on the same disk they prove that they see it with the data folder's id."""

    enabled: bool = False
    store_id: str = ""

    def allows(self, how: Direct, shown_id: str) -> bool:
        if not self.enabled or how is Direct.NONE:
            return False
        return how is Direct.PRESIGNED or (bool(self.store_id) and shown_id == self.store_id)


@dataclass(slots=True)
class RowStream:
    """Rows of one target, from its start or from where it was cut. `emitted` counts from the target's start. Close it."""

    pinned: Pinned
    _reader: RowReader
    _pool: Executor
    _mark: bytes
    emitted: int
    _ahead: asyncio.Future[Chunk | None] | None = field(default=None)

    async def next(self) -> Chunk | None:
        """The next chunk, None at the end. Its rows count as emitted; `token(chunk, rows)` is for a part of it."""
        limit = self.pinned.scan.limit
        if limit and self.emitted >= limit:
            return None
        chunk = await asyncio.shield(self._ahead or self._read())
        if chunk is None:
            return None
        if limit and self.emitted + chunk.batch.num_rows > limit:
            chunk = chunk.head(limit - self.emitted)
        self.emitted += chunk.batch.num_rows
        self._read()  # one ahead, while this one is encoded and sent
        return chunk

    def _read(self) -> asyncio.Future[Chunk | None]:
        self._ahead = asyncio.get_running_loop().run_in_executor(self._pool, self._reader.next)
        return self._ahead

    def token(self, chunk: Chunk, rows: int) -> bytes:
        """After the first `rows` of the newest chunk."""
        emitted = self.emitted - chunk.batch.num_rows + rows
        place = chunk.place_after(rows) if rows else chunk.end
        uid, version = self.pinned.view.row.uid, self.pinned.version
        return encode_resume(ResumeToken(uid, version, self._mark, place, emitted))

    async def aclose(self) -> None:
        """Waits for a read under way: the file is closed on the thread that reads it."""
        if self._ahead is not None:
            await asyncio.wait({self._ahead})
            if not self._ahead.cancelled():
                self._ahead.exception()  # looked at: nobody waits for it any more
        await asyncio.get_running_loop().run_in_executor(self._pool, self._reader.close)


class Reads:
    """`pool`: bounded threads for reading files."""

    def __init__(
        self, tables: OpenTables, control: ControlStore, clock: Clock, pool: Executor, direct: DirectAccess
    ) -> None:
        self._tables, self._control, self._clock = tables, control, clock
        self._pool, self._direct = pool, direct

    async def plan(self, wish: ReadWish, *, store_id: str = "") -> ReadPlan:
        """`store_id`: what the caller showed. Raises FieldInvalid, TableNotFound, TableRecreated, VersionExpired,
        VersionInFuture, ChangesNotAppendOnly, TokenMismatch (`refine_split`)."""
        pinned = await self._pinned(wish)
        encoded = encode(pinned.scan)
        mark = fingerprint(encoded)
        within = WHOLE if not wish.refine else self._refined(wish.refine, pinned, mark)
        ranges = split(pinned, preferred=wish.preferred_splits, most=wish.max_splits, within=within)
        carried = encoded if len(encoded) <= MAX_BYTES - _TOKEN_ROOM else b""
        now_us = self._clock.now_us()
        if not carried and ranges:
            await self._control.run(lambda tx: tx.put_scan(mark, encoded, now_us=now_us, since_us=now_us - 2 * KEPT_US))
        pinned.view.note_planned(pinned.version)
        direct = self._direct.allows(pinned.view.files.direct, store_id) and not pinned.scan.limit
        splits = [self._planned(pinned, mark, carried, part, direct) for part in ranges]
        return ReadPlan(pinned, splits, now_us + KEPT_US)

    async def open(self, wish: ReadWish, resume: bytes = b"") -> RowStream:
        """Plan and read in one. Raises as `plan`; TokenMismatch, TokenUnsupported for `resume`."""
        token = decode_resume(resume) if resume else None
        if token is not None:
            if wish.version not in (None, token.version) or wish.table_uid not in ("", token.uid):
                raise _other_request()
            wish = ReadWish(scan=wish.scan, table_uid=token.uid, version=token.version)
        pinned = await self._pinned(wish)
        pinned.view.note_planned(pinned.version)
        return self._stream(pinned, fingerprint(b"read", encode(pinned.scan)), WHOLE, token)

    async def open_split(self, split_token: bytes, resume: bytes = b"") -> RowStream:
        """Raises TokenMismatch, TokenUnsupported, TableNotFound, TableRecreated, VersionExpired."""
        part = decode_split(split_token, field="split_token")
        token = decode_resume(resume) if resume else None
        if token is not None and (token.uid, token.version) != (part.uid, part.version):
            raise _other_request()
        pinned = await self._pinned_split(part)
        mark = fingerprint(b"split", part.fingerprint, repr((part.start, part.end)).encode())
        return self._stream(pinned, mark, (part.start, part.end), token)

    async def split_files(self, split_token: bytes, *, store_id: str) -> SplitFiles:
        """Raises BackendCapability when the caller may not open files, and as `open_split`."""
        part = decode_split(split_token, field="split_token")
        pinned = await self._pinned_split(part)
        if (
            not self._direct.allows(pinned.view.files.direct, store_id)
            or pinned.scan.limit
            or part.start.row
            or part.end.row
        ):
            raise _not_direct()
        numbers = range(part.start.file, min(part.end.file, len(pinned.files)))
        kept = [pinned.files[number] for number in numbers if pinned.kept[number]]
        found = await pinned.view.files.urls([file.path for file in kept])
        files = [
            SplitFile(file.path, at.url, file.size_bytes, file.row_count, at.expire_us)
            for file, at in zip(kept, found, strict=True)
        ]
        return SplitFiles(pinned.scan.table, files, pinned.schema, pinned.schema_id, pinned.filter)

    async def _pinned(self, wish: ReadWish) -> Pinned:
        view = await self._tables.view(wish.scan.table, uid=wish.table_uid)
        if wish.version is None:
            await view.refresh()
        return await pin(view, wish.scan, _version(view, wish))

    async def _pinned_split(self, part: SplitToken) -> Pinned:
        encoded: bytes | None = part.scan or None
        if encoded is None:
            encoded = await self._control.run(lambda tx: tx.scan(part.fingerprint))
        if encoded is None or fingerprint(encoded) != part.fingerprint:
            raise TokenMismatch(
                "the split's request is not known any more", field="split_token", hint="plan the read again"
            )
        scan = decode(encoded)
        return await pin(await self._tables.view(scan.table, uid=part.uid), scan, part.version)

    def _refined(self, refine: bytes, pinned: Pinned, mark: bytes) -> tuple[Place, Place]:
        part = decode_split(refine, field="refine_split")
        if (part.uid, part.version, part.fingerprint) != (pinned.view.row.uid, pinned.version, mark):
            raise TokenMismatch(
                "the split belongs to another request",
                field="refine_split",
                hint="repeat the plan's request, with its version",
            )
        return part.start, part.end

    def _planned(self, pinned: Pinned, mark: bytes, scan: bytes, part: Range, direct: bool) -> PlannedSplit:
        uid = pinned.view.row.uid
        token = encode_split(SplitToken(uid, pinned.version, mark, part.start, part.end, scan))
        rows = min(part.rows, pinned.scan.limit) if pinned.scan.limit else part.rows
        return PlannedSplit(token, rows, part.bytes, direct and part.whole_files)

    def _stream(self, pinned: Pinned, mark: bytes, within: tuple[Place, Place], token: ResumeToken | None) -> RowStream:
        begin, end = within
        if token is not None and (token.fingerprint != mark or not begin <= token.place <= end):
            raise _other_request()
        start, emitted = (token.place, token.emitted) if token else (begin, 0)
        return RowStream(pinned, RowReader(pinned, start, end, begin=begin), self._pool, mark, emitted)


def _version(view: TableView, wish: ReadWish) -> Version:
    if wish.version is not None:
        return wish.version
    return view.head if wish.as_of_us is None else view.version_at(wish.as_of_us)


def _not_direct() -> BackendCapability:
    return BackendCapability("this split's files cannot be opened by the caller", hint="use ReadRows")


def _other_request() -> TokenMismatch:
    return TokenMismatch(
        "the resume token belongs to another request",
        field="resume_token",
        hint="repeat the request as it was, except encoding, compression and sizes",
    )


def check_counts(preferred: int, most: int) -> None:
    """Raises FieldInvalid outside of 0 to 1,000."""
    for name, value in (("preferred_min_splits", preferred), ("max_splits", most)):
        if not 0 <= value <= 1_000:
            raise FieldInvalid("0 to 1,000", field=name)
