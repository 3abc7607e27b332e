"""Watches storage's resources and tables, and pins what it sees to the board."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any

from millrace.client.channel import Connection, call
from millrace.client.watch import Deleted, Put, Synced, watch_resources, watch_table
from millrace.errors import MillraceError
from millrace.storage.v1 import resources_pb2, storage_pb2, storage_pb2_grpc
from svc_viz.adapters.storage.dashboards import dashboard_of
from svc_viz.convert.facts import moment, pipeline_facts, source_facts, table_facts, transform_facts
from svc_viz.ports import Board, TableFacts, World

log = logging.getLogger(__name__)

COLLECTIONS = tuple(f"namespaces/-/{name}" for name in ("dashboards", "pipelines", "sources", "transforms"))
READERS: Mapping[str, Callable[[resources_pb2.Resource], Any]] = {
    "dashboards": dashboard_of,
    "pipelines": pipeline_facts,
    "sources": source_facts,
    "transforms": transform_facts,
}
RECOUNT_S = 1.0
"""Counts of a table are asked for at most this often; versions come by themselves."""
LONGEST_PAUSE_S = 2.0
MAX_TABLES = 200


class StorageObserver:
    """Implements `Observer`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = storage_pb2_grpc.StorageServiceStub(connection.channel)
        self._known: dict[str, dict[str, Any]] = {name: {} for name in READERS}
        self._tables: dict[str, TableFacts] = {}
        self._watching: dict[str, asyncio.Task[None]] = {}

    async def run(self, board: Board) -> None:
        tries = 0
        try:
            while True:
                try:
                    async with aclosing(watch_resources(self._connection, COLLECTIONS, tries=1)) as changes:
                        listed: set[str] = set()
                        async for change in changes:
                            tries = 0
                            self._take(change, listed, board)
                except MillraceError as error:
                    if tries or error.reason not in {"STREAM_AGED_OUT", "STREAM_DRAINING"}:
                        why = "the connection broke" if error.reason == "TRANSPORT" else error.message
                        board.publish(board.world.changed(unreachable=why))
                tries += 1
                await asyncio.sleep(random.uniform(0.05, min(LONGEST_PAUSE_S, 0.1 * 2**tries)))
        finally:
            for task in self._watching.values():
                task.cancel()

    def _take(self, change: Put | Deleted | Synced, listed: set[str], board: Board) -> None:
        match change:
            case Put(resource):
                listed.add(resource.name)
                self._put(resource)
            case Deleted(resource):
                self._known[_collection(resource.name)].pop(resource.name, None)
            case Synced():
                for found in self._known.values():  # a new watch tells all that there is: what it did not tell is gone
                    for name in found.keys() - listed:
                        del found[name]
        if not isinstance(change, Put) or board.world.unreachable == "":
            self._publish(board)

    def _put(self, resource: resources_pb2.Resource) -> None:
        collection = _collection(resource.name)
        try:
            self._known[collection][resource.name] = READERS[collection](resource)
        except MillraceError as error:
            log.warning("%s cannot be shown: %s", resource.name, error.message)

    def _publish(self, board: Board) -> None:
        world = World(
            dashboards=dict(self._known["dashboards"]),
            pipelines=dict(self._known["pipelines"]),
            sources=dict(self._known["sources"]),
            transforms=dict(self._known["transforms"]),
            tables=dict(self._tables),
            unreachable="",
        )
        board.publish(world)
        self._watch_tables(board)

    def _watch_tables(self, board: Board) -> None:
        wanted = tables_of(board.world)
        for name in self._watching.keys() - wanted:
            self._watching.pop(name).cancel()
            self._tables.pop(name, None)
        for name in sorted(wanted - self._watching.keys())[: MAX_TABLES - len(self._watching)]:
            self._watching[name] = asyncio.create_task(self._follow(name, board), name=f"watch {name}")

    async def _follow(self, name: str, board: Board) -> None:
        """Versions as they come, counts once a second; a table that is not there yet is looked for again."""
        while True:
            with suppress(MillraceError):
                await self._count(name, board)
                request = storage_pb2.WatchTableRequest(
                    table=name, after_version=self._tables[name].version, coalesce=True
                )
                async with aclosing(watch_table(self._connection, request, tries=1)) as changes:
                    counted = asyncio.get_running_loop().time()
                    async for change in changes:
                        if isinstance(change, storage_pb2.TableDeleted):
                            self._tables.pop(name, None)
                            break
                        if isinstance(change, storage_pb2.TableVersion):
                            self._moved(name, change)
                            if asyncio.get_running_loop().time() - counted >= RECOUNT_S:
                                await self._count(name, board)
                                counted = asyncio.get_running_loop().time()
                        elif change.version > 0 and asyncio.get_running_loop().time() - counted >= RECOUNT_S:
                            await self._count(name, board)
                        self._show(board)
            await asyncio.sleep(random.uniform(0.5, LONGEST_PAUSE_S))

    async def _count(self, name: str, board: Board) -> None:
        request = storage_pb2.GetTableRequest(name=name)
        answer = await call(
            self._connection, self._stub.GetTable, request, resource=name, answer=storage_pb2.GetTableResponse, tries=1
        )
        self._tables[name] = table_facts(answer.table)
        self._show(board)

    def _moved(self, name: str, version: storage_pb2.TableVersion) -> None:
        old = self._tables[name]
        self._tables[name] = replace(
            old,
            version=version.number,
            row_count=old.row_count + version.rows_added - version.rows_removed,
            commit_time=moment(version.commit_time) or old.commit_time,
        )

    def _show(self, board: Board) -> None:
        board.publish(board.world.changed(tables=dict(self._tables)))


def _collection(name: str) -> str:
    return name.split("/")[2]


def tables_of(world: World) -> set[str]:
    """Full names of every table that a page may speak of."""
    found = {table for pipeline in world.pipelines.values() for table in pipeline.tables}
    found |= {one.table for one in world.sources.values() if one.table}
    found |= {one.output for one in world.transforms.values() if one.output}
    for dashboard in world.dashboards.values():
        spec, prefix = dashboard.spec, f"namespaces/{dashboard.namespace}/tables/"
        named = {spec.time.table, *(query.table for query in spec.queries.values())} - {""}
        named |= {name.partition("$")[0] for name in named} | {one.table for one in spec.elements.values() if one.table}
        found |= {name if "/" in name else prefix + name for name in named}
    return found
