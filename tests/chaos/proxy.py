"""A TCP proxy between two processes that can cut, swallow or delay what passes."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import time
from collections.abc import Callable
from typing import Any

CHUNK = 64 * 1024
Pair = frozenset[asyncio.StreamWriter]
"""The two ends of one connection."""


class Proxy:
    """Listens on a port of its own and passes bytes to `target` (asked at each connection) on `host`."""

    def __init__(self, target: Callable[[], int], host: str = "127.0.0.1") -> None:
        self._target, self._host = target, host
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._swallowing_until = 0.0
        self._delaying_until, self._delay_s = 0.0, 0.0
        self.port = 0
        self.cuts = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2.0)

    def cut(self) -> None:
        """Resets every connection at once; both sides notice."""
        self.cuts += len(self._writers) > 0
        for writer in list(self._writers):
            raw: socket.socket | None = writer.get_extra_info("socket")
            if raw is not None:
                with contextlib.suppress(OSError):
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
            writer.transport.abort()

    async def swallow(self, seconds: float) -> None:
        """Half-open: connections stay, nothing arrives any more; cut afterwards, for the lost bytes would garble the rest."""
        self._swallowing_until = time.monotonic() + seconds
        await asyncio.sleep(seconds)
        self.cut()

    def delay(self, by_s: float, seconds: float) -> None:
        """Every chunk waits `by_s`, for `seconds`."""
        self._delay_s, self._delaying_until = by_s, time.monotonic() + seconds

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            onward_reader, onward_writer = await asyncio.open_connection(self._host, self._target())
        except OSError:
            writer.transport.abort()
            return
        handler = asyncio.current_task()
        assert handler is not None
        self._tasks.add(handler)
        pair = frozenset((writer, onward_writer))
        self._writers |= pair
        pumps = [
            asyncio.create_task(self._pump(reader, onward_writer, pair, answers=False)),
            asyncio.create_task(self._pump(onward_reader, writer, pair, answers=True)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._tasks.discard(handler)
            self._writers -= pair
            for one in pair:
                one.transport.abort()

    def passes(self, pair: Pair, data: bytes, *, answers: bool) -> bool:
        """False: `data` is dropped, and the connection with it. `answers`: it comes from the target."""
        return True

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pair: Pair, *, answers: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                if not self.passes(pair, data, answers=answers):
                    return
                now = time.monotonic()
                if now < self._swallowing_until:
                    continue
                if now < self._delaying_until:
                    await asyncio.sleep(self._delay_s)
                writer.write(data)
                await writer.drain()


class Dropping(Proxy):
    """Once armed, the answer to the next request that holds `mark` is dropped, and the connection cut: it was done, nobody is told."""

    def __init__(self, target: Callable[[], int], mark: re.Pattern[bytes], host: str = "127.0.0.1") -> None:
        super().__init__(target, host)
        self._mark = mark
        self._armed = 0
        self._marked: Pair | None = None
        self.dropped = 0

    def arm(self) -> None:
        self._armed += 1

    def passes(self, pair: Pair, data: bytes, *, answers: bool) -> bool:
        if answers and pair is self._marked:
            self._marked = None
            self.dropped += 1
            return False
        if not answers and self._armed and self._marked is None and self._mark.search(data):
            self._armed -= 1
            self._marked = pair
        return True
