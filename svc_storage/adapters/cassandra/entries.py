"""The control log as rows: entries by `INSERT … IF NOT EXISTS`, 256 to a partition, forgotten with their partition."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Sequence

from millrace.errors import ChecksumMismatch, CommitConflict, OutcomeUnknown, StoreUnavailable
from svc_storage.adapters.cassandra.session import Session

PART = 256
INLINE_BYTES = 64 << 10
PIECE_BYTES = 512 << 10
AT_ONCE = 8
TRIES = 20
_PUT = "INSERT INTO control_entries (log, part, n, blob, body, pieces) VALUES (?, ?, ?, ?, ?, ?) IF NOT EXISTS"
_READ = "SELECT n, blob, body, pieces FROM control_entries WHERE log = ? AND part = ? AND n >= ? LIMIT ?"
_BLOBS = "SELECT blob, pieces FROM control_entries WHERE log = ? AND part = ?"
_DROP = "DELETE FROM control_entries WHERE log = ? AND part = ?"
_STATE = "SELECT snapshots, trimmed FROM control_state WHERE log = ?"
_FIRST = "INSERT INTO control_state (log, snapshots, trimmed) VALUES (?, '[]', 0) IF NOT EXISTS"
_MOVE = "UPDATE control_state SET snapshots = ?, trimmed = ? WHERE log = ? IF snapshots = ? AND trimmed = ?"
_PUT_PIECE = "INSERT INTO control_blobs (blob, piece, body) VALUES (?, ?, ?)"
_GET_PIECE = "SELECT body FROM control_blobs WHERE blob = ? AND piece = ?"
_DROP_PIECE = "DELETE FROM control_blobs WHERE blob = ? AND piece = ?"
Kept = tuple[int, str, int]


class CassandraEntries:
    """In the session's keyspace. The session is closed by whoever made it."""

    def __init__(self, session: Session, log: str = "catalog") -> None:
        self._session, self._log = session, log

    async def put_if_absent(self, n: int, data: bytes) -> bytes | None:
        blob, body, pieces = "", data, 0
        if len(data) > INLINE_BYTES:
            blob, body = f"e{n}.{uuid.uuid4().hex}", b""
            pieces = await self._put_blob(blob, data)
        try:
            before = await self._session.cas(_PUT, self._log, n // PART, n, blob, body, pieces)
        except OutcomeUnknown:
            if not (found := await self._rows(n, 1, serial=True)):
                raise
            return found[0]
        if before is None:
            return None
        if blob:
            await self._drop_blob(blob, pieces)
        _, _, _, other, theirs, count = before
        return await self._body(n, other, theirs, count)

    async def read_from(self, n: int, limit: int) -> Sequence[bytes]:
        found: list[bytes] = []
        while len(found) < limit:
            first = n + len(found)
            wanted = min(limit - len(found), PART - first % PART)
            got = await self._rows(first, wanted)
            found.extend(got)
            if len(got) < wanted:
                break
        return found

    async def _rows(self, n: int, limit: int, *, serial: bool = False) -> Sequence[bytes]:
        """Within one partition, up to the first gap. Reads at LOCAL_QUORUM see every put that was answered; `serial` settles one that
        was not."""
        rows = await self._session.run(_READ, self._log, n // PART, n, limit, serial=serial)
        bodies = []
        for expected, (found, blob, body, pieces) in enumerate(rows, n):
            if found != expected:
                break
            bodies.append(await self._body(found, blob, body, pieces))
        return bodies

    async def put_snapshot(self, n: int, data: bytes) -> None:
        blob = f"s{n}.{uuid.uuid4().hex}"
        pieces = await self._put_blob(blob, data)
        for _ in range(TRIES):
            kept, trimmed = await self._state()
            if any(number == n for number, *_ in kept):
                await self._drop_blob(blob, pieces)
                return
            if await self._move(kept, trimmed, sorted([*kept, (n, blob, pieces)]), trimmed):
                return
        raise CommitConflict("other replicas write snapshots all the time", retry_after_ms=1_000)

    async def snapshots(self) -> Sequence[int]:
        return [n for n, *_ in (await self._state())[0]]

    async def get_snapshot(self, n: int) -> bytes | None:
        for number, blob, pieces in (await self._state())[0]:
            if number == n:
                return await self._blob(blob, pieces)
        return None

    async def trim(self, below: int, *, snapshots_below: int) -> None:
        """Whole partitions only. First the place where it begins to be empty, then the rest in order."""
        for _ in range(TRIES):
            kept, trimmed = await self._state()
            stays = [one for one in kept if one[0] >= snapshots_below]
            parts = range(trimmed, max(trimmed, below // PART))
            for part in parts:
                for blob, pieces in await self._session.run(_BLOBS, self._log, part):
                    await self._drop_blob(blob, pieces or 0)
                await self._session.run(_DROP, self._log, part)
            if await self._move(kept, trimmed, stays, parts.stop):
                for _, blob, pieces in kept:
                    if all(blob != other for _, other, _ in stays):
                        await self._drop_blob(blob, pieces)
                return
        raise CommitConflict("other replicas trim all the time", retry_after_ms=1_000)

    async def close(self) -> None:
        return None

    async def _state(self) -> tuple[list[Kept], int]:
        rows = await self._session.run(_STATE, self._log, serial=True)
        if not rows:
            await self._session.cas(_FIRST, self._log)
            return [], 0
        text, trimmed = rows[0]
        return [(n, blob, pieces) for n, blob, pieces in json.loads(text)], trimmed

    async def _move(self, kept: list[Kept], trimmed: int, new: list[Kept], trimmed_now: int) -> bool:
        """A lost answer is no harm: the next look shows what is there."""
        if (kept, trimmed) == (new, trimmed_now):
            return True
        text, before = (json.dumps(what, separators=(",", ":")) for what in (new, kept))
        try:
            return await self._session.cas(_MOVE, text, trimmed_now, self._log, before, trimmed) is None
        except OutcomeUnknown:
            return False

    # -- blobs
    async def _put_blob(self, blob: str, data: bytes) -> int:
        pieces = [data[start : start + PIECE_BYTES] for start in range(0, len(data), PIECE_BYTES)]
        for start in range(0, len(pieces), AT_ONCE):
            some = enumerate(pieces[start : start + AT_ONCE], start)
            await asyncio.gather(*(self._session.run(_PUT_PIECE, blob, index, piece) for index, piece in some))
        return len(pieces)

    async def _body(self, n: int, blob: str | None, body: bytes | None, pieces: int | None) -> bytes:
        if not blob:
            return body or b""
        if (whole := await self._blob(blob, pieces or 0)) is None:
            if not await self._session.run(_READ, self._log, n // PART, n, 1):
                raise StoreUnavailable("the control log was trimmed while it was read", retry_after_ms=100)
            raise ChecksumMismatch(f"entry {n} of the control log lacks a part of its body")
        return whole

    async def _blob(self, blob: str, pieces: int) -> bytes | None:
        found: list[bytes] = []
        for start in range(0, pieces, AT_ONCE):
            some = range(start, min(start + AT_ONCE, pieces))
            rows = await asyncio.gather(*(self._session.run(_GET_PIECE, blob, index) for index in some))
            if not all(rows):
                return None
            found.extend(row[0][0] for row in rows)
        return b"".join(found)

    async def _drop_blob(self, blob: str | None, pieces: int) -> None:
        if blob:
            await asyncio.gather(*(self._session.run(_DROP_PIECE, blob, index) for index in range(pieces)))
