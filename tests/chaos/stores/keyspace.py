"""Cassandra under the episodes: one node, or three."""

from __future__ import annotations

import asyncio
import re
import signal
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from cassandra.cluster import Cluster

from millrace.laptop.servers.cassandra import Cassandra, Node
from tests.chaos.proxy import Dropping
from tests.chaos.stores.plan import Trouble

COMMIT_ID = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
"""A conditional insert carries one in the clear."""
FIRST = {1: 61, 3: 71}


class Keyspace:
    """A keyspace for each episode. One node is reached through a proxy that can drop the answer to a conditional insert; of three,
    one is killed or stands still at a time."""

    backend = "cassandra"

    def __init__(self, cluster: Cassandra) -> None:
        self._cluster = cluster
        first = cluster.nodes[0]
        self._way = Dropping(lambda: cluster.cql_port, COMMIT_ID, first.address) if len(cluster.nodes) == 1 else None

    async def start(self) -> None:
        if self._way is not None:
            await self._way.start()

    async def stop(self) -> None:
        if self._way is not None:
            await self._way.stop()

    def settings(self, home: Path) -> Mapping[str, str]:
        points = self._cluster.contact_points if self._way is None else (f"127.0.0.1:{self._way.port}",)
        return {
            "MILLRACE_STORAGE_CASSANDRA_CONTACT_POINTS": ",".join(points),
            "MILLRACE_STORAGE_CASSANDRA_KEYSPACE": keyspace_of(home),
        }

    async def before(self, home: Path) -> None:
        """Also what an episode that failed left behind."""
        for node in self._cluster.nodes:
            node.signal(signal.SIGCONT)
            await asyncio.to_thread(_started, node)

    async def trouble(self, trouble: Trouble) -> None:
        node = self._cluster.nodes[trouble.whom % len(self._cluster.nodes)]
        match trouble.what:
            case "answer dropped" if self._way is not None:
                self._way.arm()
            case "server killed":
                node.kill()
                await asyncio.sleep(trouble.seconds)
                await asyncio.to_thread(_started, node)
            case "partition" if self._way is not None:
                await self._way.swallow(trouble.seconds)
            case "partition":
                node.signal(signal.SIGSTOP)
                await asyncio.sleep(trouble.seconds)
                node.signal(signal.SIGCONT)
            case other:
                raise ValueError(other)

    async def after(self, home: Path) -> None:
        if all(node.answers() for node in self._cluster.nodes):
            await asyncio.to_thread(self._drop, keyspace_of(home))

    def _drop(self, keyspace: str) -> None:
        cluster = Cluster([node.address for node in self._cluster.nodes], port=self._cluster.cql_port)
        try:
            cluster.connect().execute(f"DROP KEYSPACE IF EXISTS {keyspace}", timeout=60)
        finally:
            cluster.shutdown()


def keyspace_of(home: Path) -> str:
    return re.sub(r"[^a-z0-9]", "_", home.name.lower())[-40:]


def _started(node: Node) -> None:
    node.start()
    node.wait()


@asynccontextmanager
async def _keyspace(count: int) -> AsyncIterator[Keyspace]:
    with tempfile.TemporaryDirectory(prefix="millrace-cassandra-", ignore_cleanup_errors=True) as folder:
        cluster = await asyncio.to_thread(Cassandra.start, Path(folder), count, first=FIRST[count])
        ground = Keyspace(cluster)
        try:
            await ground.start()
            yield ground
        finally:
            await ground.stop()
            await asyncio.to_thread(cluster.kill)


one_node = partial(_keyspace, 1)
three_nodes = partial(_keyspace, 3)
