"""S3 under the episodes."""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from millrace.laptop.servers.weed import Weed
from tests.chaos.proxy import Dropping
from tests.chaos.stores.ground import run
from tests.chaos.stores.plan import Trouble


class Bucket:
    """One `weed` for all episodes, a prefix for each; between storage and it a proxy that can drop the answer to a conditional put.

    Where the machine lets us, weed lives in a network namespace of its own, and "partition" takes the link to it down."""

    backend = "s3"

    def __init__(self, folder: Path) -> None:
        self._net = Namespace() if os.geteuid() == 0 else None
        through = self._net.prefix if self._net else ()
        self._weed = Weed(folder, host=self._net.inside if self._net else "127.0.0.1", through=through)
        self._way = Dropping(self._port, re.compile(rb"(?i)if-none-match"), self._weed.host)

    def _port(self) -> int:
        return int(self._weed.endpoint.rpartition(":")[2])

    async def start(self) -> None:
        if self._net is not None:
            await self._net.make()
        await asyncio.to_thread(self._weed.start)
        await self._way.start()

    async def stop(self) -> None:
        await self._way.stop()
        await asyncio.to_thread(self._weed.kill)
        if self._net is not None:
            await self._net.remove()

    def settings(self, home: Path) -> Mapping[str, str]:
        return {
            "MILLRACE_STORAGE_S3_URL": f"s3://{self._weed.bucket}/{home.name}",
            "MILLRACE_STORAGE_S3_ENDPOINT": f"http://127.0.0.1:{self._way.port}",
            "MILLRACE_STORAGE_S3_ALLOW_HTTP": "1",
            "MILLRACE_STORAGE_S3_ACCESS_KEY": "env:CHAOS_ACCESS_KEY",
            "MILLRACE_STORAGE_S3_SECRET_KEY": "env:CHAOS_SECRET_KEY",
            "CHAOS_ACCESS_KEY": self._weed.keys[0].access_key,
            "CHAOS_SECRET_KEY": self._weed.keys[0].secret_key,
        }

    async def before(self, home: Path) -> None:
        if not self._weed.pid:
            await asyncio.to_thread(self._weed.start)

    async def trouble(self, trouble: Trouble) -> None:
        match trouble.what:
            case "answer dropped":
                self._way.arm()
            case "server killed":
                self._weed.kill()
                await asyncio.sleep(trouble.seconds)
                await asyncio.to_thread(self._weed.start)
            case "partition" if self._net is not None:
                await self._net.cut(trouble.seconds)
            case "partition":
                await self._way.swallow(trouble.seconds)
            case other:
                raise ValueError(other)

    async def after(self, home: Path) -> None:
        """The prefix stays in the bucket until weed's folder goes."""


class Namespace:
    """A network namespace with one address, reached over a link that can be taken down."""

    def __init__(self) -> None:
        self._name = f"millrace{os.getpid()}"
        network = f"10.213.{os.getpid() % 250}"
        self._outside, self.inside = f"{network}.1", f"{network}.2"
        self._link = f"mr{os.getpid()}"

    @property
    def prefix(self) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self._name)

    async def make(self) -> None:
        """Raises RuntimeError."""
        there, name, link = f"{self._link}i", self._name, self._link
        for words in (
            f"netns add {name}",
            f"link add {link} type veth peer name {there} netns {name}",
            f"addr add {self._outside}/24 dev {link}",
            f"link set {link} up",
            f"-n {name} addr add {self.inside}/24 dev {there}",
            f"-n {name} link set {there} up",
            f"-n {name} link set lo up",
        ):
            if await run("ip", *words.split()) != 0:
                raise RuntimeError(f"ip {words} failed")

    async def cut(self, seconds: float) -> None:
        await run("ip", "link", "set", self._link, "down")
        await asyncio.sleep(seconds)
        await run("ip", "link", "set", self._link, "up")

    async def remove(self) -> None:
        await run("ip", "netns", "del", self._name)


@asynccontextmanager
async def bucket() -> AsyncIterator[Bucket]:
    with tempfile.TemporaryDirectory(prefix="millrace-weed-") as folder:
        ground = Bucket(Path(folder))
        await ground.start()
        try:
            yield ground
        finally:
            await ground.stop()
