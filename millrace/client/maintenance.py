"""A table's maintenance: runs that storage carries out, observed until they end; its writers; how long it keeps rows and versions."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from millrace import errors
from millrace.client import status
from millrace.client.channel import Connection, call
from millrace.client.resources import new_request_id
from millrace.client.runs import observe
from millrace.client.where import Where, predicate
from millrace.storage.v1 import maintenance_pb2 as pb
from millrace.storage.v1 import storage_pb2, storage_pb2_grpc
from millrace.types.v1 import run_pb2
from millrace.wire.values import value_to_proto

Request: TypeAlias = (
    pb.CompactTableRequest
    | pb.ExpireVersionsRequest
    | pb.RestoreTableRequest
    | pb.EraseRowsRequest
    | pb.CheckTableRequest
    | pb.ExportTableRequest
    | pb.ImportTableRequest
)
Progressed = Callable[[run_pb2.RunProgress], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run did. `name`: of its run. `reports`: one per table, the table itself first. `faults`: what a check found."""

    name: str
    state: str
    reports: tuple[run_pb2.TableReport, ...]
    faults: tuple[run_pb2.TableFault, ...] = ()

    @property
    def report(self) -> run_pb2.TableReport:
        """The table's own; an empty one when the run was cancelled before."""
        return self.reports[0] if self.reports else run_pb2.TableReport()


def events(connection: Connection, request: Request) -> AsyncGenerator[run_pb2.RunEvent, None]:
    """Runs it, or attaches to the run of that request id. Raises TableNotFound, FieldInvalid, RequestIdReused, …"""
    stub = storage_pb2_grpc.StorageServiceStub(connection.channel)
    method = getattr(stub, type(request).__name__.removesuffix("Request"))

    def open(after: int) -> Any:
        asked = type(request)()
        asked.CopyFrom(request)  # type: ignore[arg-type]
        asked.after_sequence = after
        return method(asked, metadata=connection.metadata(request.table))

    return observe(open, after_sequence=request.after_sequence)


async def outcome(
    connection: Connection,
    request: Request,
    *,
    progressed: Progressed | None = None,
    found: Callable[[run_pb2.TableFault], None] | None = None,
) -> Outcome:
    """Waits for the end. Raises the run's own error when it failed."""
    reports, faults = list[run_pb2.TableReport](), list[run_pb2.TableFault]()
    async with contextlib.aclosing(events(connection, request)) as stream:
        async for event in stream:
            match event.WhichOneof("event"):
                case "progress" if progressed is not None:
                    progressed(event.progress)
                case "report":
                    reports.append(event.report)
                case "fault":
                    faults.append(event.fault)
                    if found is not None:
                        found(event.fault)
                case "finished":
                    if event.finished.state == run_pb2.RUN_STATE_FAILED:
                        raise status.in_band(event.finished.error)
                    state = run_pb2.RunState.Name(event.finished.state).removeprefix("RUN_STATE_")
                    return Outcome(event.run.name, state, tuple(reports), tuple(faults))
    raise errors.Unexpected("the run's events ended without `finished`")


class TableMaintenance:
    """Of one table. Each run method waits for the end; `run_id` names the run: the same id attaches to it."""

    def __init__(self, connection: Connection, table: str) -> None:
        self._connection, self._table = connection, table

    async def compact(self, *, run_id: str = "") -> Outcome:
        """Few large files of many small ones, now."""
        request = pb.CompactTableRequest(table=self._table, request_id=run_id or new_request_id())
        return await outcome(self._connection, request)

    async def expire(
        self,
        *,
        older_than: dt.datetime | None = None,
        keep: int = 0,
        break_readers: Sequence[str] = (),
        run_id: str = "",
    ) -> Outcome:
        """Ends versions that were replaced before `older_than`, and all but the newest `keep`; with both: what both let go."""
        request = pb.ExpireVersionsRequest(
            table=self._table,
            request_id=run_id or new_request_id(),
            keep_versions=keep,
            break_readers=break_readers,
        )
        if older_than is not None:
            request.older_than.FromDatetime(older_than)
        return await outcome(self._connection, request)

    async def restore(
        self, version: int | None = None, *, as_of: dt.datetime | None = None, run_id: str = ""
    ) -> Outcome:
        """Makes the rows of `version`, or of the newest one at `as_of`, the newest version's."""
        request = pb.RestoreTableRequest(table=self._table, request_id=run_id or new_request_id())
        if as_of is not None:
            request.as_of.FromDatetime(as_of)
        elif version is not None:
            request.version = version
        return await outcome(self._connection, request)

    async def erase(
        self,
        where: Where | None = None,
        *,
        keys: Sequence[Sequence[Any]] = (),
        keep_derived: bool = False,
        erase_unjudged: bool = False,
        grace: dt.timedelta | None = None,
        run_id: str = "",
    ) -> Outcome:
        """Takes rows out for good: those of `where`, or with one of the primary `keys` (a tuple of values each). A report per table
        says when the bytes are gone."""
        request = pb.EraseRowsRequest(
            table=self._table,
            request_id=run_id or new_request_id(),
            predicate=predicate(where),
            keep_derived=keep_derived,
            erase_unjudged=erase_unjudged,
        )
        if keys:
            request.keys.keys.extend(pb.EraseKey(values=map(value_to_proto, key)) for key in keys)
        if grace is not None:
            request.grace.FromTimedelta(grace)
        return await outcome(self._connection, request)

    async def check(self, *, sample: float = 1.0, repair: bool = False, run_id: str = "") -> Outcome:
        """Compares all that the table is made of with its log; `report.verified` says whether all is well."""
        request = pb.CheckTableRequest(
            table=self._table, request_id=run_id or new_request_id(), sample=sample, repair=repair
        )
        return await outcome(self._connection, request)

    async def export(self, destination: str, *, version: int | None = None, run_id: str = "") -> Outcome:
        """Writes `version`, the newest unless given, into the folder `destination` of storage's archive."""
        request = pb.ExportTableRequest(
            table=self._table, request_id=run_id or new_request_id(), destination=destination, version=version
        )
        return await outcome(self._connection, request)

    async def import_from(self, source: str, *, run_id: str = "") -> Outcome:
        """Makes this table, which must not exist, from the export in the folder `source` of storage's archive."""
        request = pb.ImportTableRequest(table=self._table, request_id=run_id or new_request_id(), source=source)
        return await outcome(self._connection, request)

    async def writers(self) -> list[pb.TableWriter]:
        """All of them, by id."""
        return await list_writers(self._connection, self._table)

    async def delete_writer(self, writer_id: str) -> int:
        """Forgets it; the epoch that is used up. Raises LeaseHeld while it works, ResourceNotFound."""
        return await delete_writer(self._connection, self._table, writer_id)

    async def retain(
        self,
        *,
        rows: dt.timedelta | None = None,
        exact: bool = False,
        versions: dt.timedelta | None = None,
    ) -> storage_pb2.Table:
        """Says how long rows (by event time) and versions stay; None: for good, and as the service has it."""
        stub = storage_pb2_grpc.StorageServiceStub(self._connection.channel)
        got = await call(
            self._connection,
            stub.GetTable,
            storage_pb2.GetTableRequest(name=self._table),
            resource=self._table,
            answer=storage_pb2.GetTableResponse,
        )
        table = got.table
        table.retention.CopyFrom(pb.Retention(exact=exact))
        if rows is not None:
            table.retention.keep_rows.FromTimedelta(rows)
        if versions is not None:
            table.retention.keep_versions.FromTimedelta(versions)
        answer = await call(
            self._connection,
            stub.UpdateTable,
            storage_pb2.UpdateTableRequest(request_id=new_request_id(), table=table),
            resource=self._table,
            answer=storage_pb2.UpdateTableResponse,
        )
        return answer.table


async def list_writers(connection: Connection, table: str) -> list[pb.TableWriter]:
    stub = storage_pb2_grpc.StorageServiceStub(connection.channel)
    request = pb.ListWritersRequest(table=table, page_size=1_000)
    found: list[pb.TableWriter] = []
    while True:
        answer = await call(connection, stub.ListWriters, request, resource=table, answer=pb.ListWritersResponse)
        found += answer.writers
        if not answer.next_page_token:
            return found
        request.page_token = answer.next_page_token


async def delete_writer(connection: Connection, table: str, writer_id: str) -> int:
    """The epoch that is used up."""
    answer = await call(
        connection,
        storage_pb2_grpc.StorageServiceStub(connection.channel).DeleteWriter,
        pb.DeleteWriterRequest(request_id=new_request_id(), table=table, writer_id=writer_id),
        resource=table,
        answer=pb.DeleteWriterResponse,
        tries=1,
    )
    return answer.epoch


async def list_runs(connection: Connection, parent: str, *, table: str = "") -> list[run_pb2.Run]:
    """Storage's runs of `namespaces/{namespace}`, newest first."""
    stub = storage_pb2_grpc.StorageServiceStub(connection.channel)
    request = pb.ListRunsRequest(parent=parent, table=table, page_size=1_000)
    found: list[run_pb2.Run] = []
    while True:
        answer = await call(connection, stub.ListRuns, request, answer=pb.ListRunsResponse)
        found += answer.runs
        if not answer.next_page_token:
            return sorted(found, key=lambda run: run.create_time.ToNanoseconds(), reverse=True)
        request.page_token = answer.next_page_token


async def cancel_run(connection: Connection, name: str) -> run_pb2.Run:
    """Asks it to end at its next step. Raises RunNotFound."""
    answer = await call(
        connection,
        storage_pb2_grpc.StorageServiceStub(connection.channel).CancelRun,
        pb.CancelRunRequest(request_id=new_request_id(), name=name),
        resource=name,
        answer=pb.CancelRunResponse,
    )
    return answer.run
