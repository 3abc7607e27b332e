"""Requests of maintenance as tasks, and what a run tells as events."""

from __future__ import annotations

import re
from typing import TypeAlias

from google.protobuf.any_pb2 import Any as Packed

from millrace import errors
from millrace.storage.v1 import maintenance_pb2 as pb
from millrace.types.v1 import run_pb2
from millrace.wire.clock import micros_of, timestamp_proto
from millrace.wire.values import python_from_proto
from svc_storage.convert.predicates import predicate_from
from svc_storage.convert.tables import position_to_proto
from svc_storage.domain.definition import table_name
from svc_storage.domain.maintenance.checking import CheckWish
from svc_storage.domain.maintenance.expiring import ExpireWish
from svc_storage.domain.maintenance.reporting import Done, Fault, TableReport
from svc_storage.domain.maintenance.work import GRACE_US, MAX_KEYS, CompactTask, EraseTask, RestoreTask, Task
from svc_storage.domain.maintenance.writers import WriterView
from svc_storage.domain.reading.predicates import Literal
from svc_storage.domain.transfer.work import ExportTask, ImportTask

Request: TypeAlias = (
    pb.CompactTableRequest
    | pb.ExpireVersionsRequest
    | pb.RestoreTableRequest
    | pb.EraseRowsRequest
    | pb.CheckTableRequest
    | pb.ExportTableRequest
    | pb.ImportTableRequest
)
REQUESTS: tuple[tuple[type[Request], run_pb2.RunKind.ValueType], ...] = (
    (pb.CompactTableRequest, run_pb2.RUN_KIND_COMPACT),
    (pb.ExpireVersionsRequest, run_pb2.RUN_KIND_EXPIRE),
    (pb.RestoreTableRequest, run_pb2.RUN_KIND_RESTORE),
    (pb.EraseRowsRequest, run_pb2.RUN_KIND_ERASE),
    (pb.CheckTableRequest, run_pb2.RUN_KIND_CHECK),
    (pb.ExportTableRequest, run_pb2.RUN_KIND_EXPORT),
    (pb.ImportTableRequest, run_pb2.RUN_KIND_IMPORT),
)
KINDS = tuple(kind for _, kind in REQUESTS)
DAY_US = 24 * 3600 * 1_000_000
_RUN_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def run_spec(request: Request, principal: str) -> run_pb2.RunSpec:
    """What is stored. Raises FieldInvalid."""
    table_name(request.table, at="table")
    if not _RUN_ID.fullmatch(request.request_id) or request.request_id in (".", ".."):
        raise errors.FieldInvalid("a run's id has 1 to 128 of `[A-Za-z0-9._-]`", field="request_id")
    kept = type(request)()
    kept.CopyFrom(request)  # type: ignore[arg-type]
    kept.ClearField("request_id")
    kept.ClearField("after_sequence")
    task = Packed()
    task.Pack(kept)
    kind = next(kind for made, kind in REQUESTS if isinstance(request, made))
    return run_pb2.RunSpec(kind=kind, subject=request.table, requested_by=principal, task=task)


def stored_task(spec: run_pb2.RunSpec) -> Task:
    """The task of a stored run. Raises Unexpected for one that this release does not know."""
    for made, _ in REQUESTS:
        request = made()
        if spec.task.Unpack(request):
            return task_from(request)
    raise errors.Unexpected("the run's task is of another release")


def task_from(request: Request) -> Task:
    """Raises FieldRequired, FieldInvalid."""
    match request:
        case pb.ExpireVersionsRequest():
            return _expire(request)
        case pb.RestoreTableRequest():
            if request.WhichOneof("at") == "version":
                return RestoreTask(version=request.version)
            return RestoreTask(as_of_us=micros_of(request.as_of, "as_of"))
        case pb.EraseRowsRequest():
            return _erase(request)
        case pb.CheckTableRequest():
            if not 0 <= request.sample <= 1:
                raise errors.FieldInvalid("a share is above 0 and at most 1", field="sample")
            return CheckWish(sample=request.sample or 1.0, repair=request.repair)
        case pb.ExportTableRequest():
            version = request.version if request.HasField("version") else None
            return ExportTask(request.destination, version)
        case pb.ImportTableRequest():
            return ImportTask(request.source)
        case _:
            return CompactTask()


def _expire(request: pb.ExpireVersionsRequest) -> ExpireWish:
    if request.keep_versions < 0:
        raise errors.FieldInvalid("at least 1 version stays", field="keep_versions")
    if not request.keep_versions and not request.HasField("older_than"):
        raise errors.FieldRequired("say which versions go", field="older_than", hint="a time, or keep_versions")
    if len(request.break_readers) > 100:
        raise errors.FieldInvalid("at most 100 readers", field="break_readers")
    return ExpireWish(
        older_than_us=micros_of(request.older_than, "older_than") if request.HasField("older_than") else None,
        keep=request.keep_versions or None,
        broken=frozenset(request.break_readers),
    )


def _erase(request: pb.EraseRowsRequest) -> EraseTask:
    grace_us = GRACE_US
    if request.HasField("grace"):
        grace_us = request.grace.ToNanoseconds() // 1_000
        if not 0 <= grace_us <= DAY_US:
            raise errors.FieldInvalid("the grace is 0 to 24 h", field="grace")
    by_predicate = request.WhichOneof("rows") == "predicate"
    return EraseTask(
        predicate=predicate_from(request.predicate) if by_predicate else None,
        keys=() if by_predicate else _keys(request.keys),
        keep_derived=request.keep_derived,
        unjudged_too=request.erase_unjudged,
        grace_us=grace_us,
    )


def _keys(message: pb.EraseKeys) -> tuple[tuple[Literal, ...], ...]:
    if not 1 <= len(message.keys) <= MAX_KEYS:
        raise errors.FieldInvalid(f"1 to {MAX_KEYS} keys", field="keys.keys")
    found = []
    for index, key in enumerate(message.keys):
        values = [
            python_from_proto(value, where=f"keys.keys[{index}].values[{number}]")
            for number, value in enumerate(key.values)
        ]
        if any(value is None or isinstance(value, (list, dict)) for value in values):
            raise errors.FieldInvalid("a key has plain values, none of them NULL", field=f"keys.keys[{index}].values")
        found.append(tuple(values))
    return tuple(found)


# -- events
def progress_to(done: Done) -> run_pb2.RunProgress:
    return run_pb2.RunProgress(
        rows_read=done.rows_read,
        rows_written=done.rows_written,
        bytes=done.bytes,
        version=done.version,
        fraction=done.fraction,
    )


def report_to(report: TableReport) -> run_pb2.TableReport:
    return run_pb2.TableReport(
        table=report.table,
        rows_erased=report.rows_erased,
        dead_letters_erased=report.dead_letters_erased,
        dead_letters_unjudged=report.unjudged,
        files_rewritten=report.files_rewritten,
        files_removed=report.files_removed,
        bytes_removed=report.bytes_removed,
        versions_expired=report.versions_expired,
        oldest_version=report.oldest_version,
        version=report.version,
        gone_time=timestamp_proto(report.gone_us) if report.gone_us else None,
        verified=report.verified,
        refresh_run=report.refresh,
        held_by=report.held_by,
        notes=report.notes,
    )


def fault_to(fault: Fault) -> run_pb2.TableFault:
    return run_pb2.TableFault(
        code=fault.code,
        message=fault.message,
        path=fault.path,
        version=None if fault.version < 0 else fault.version,
        harmless=fault.harmless,
        repaired=fault.repaired,
    )


def writer_to(writer: WriterView) -> pb.TableWriter:
    state = writer.state
    return pb.TableWriter(
        writer_id=writer.id,
        epoch=state.epoch,
        next_offset=state.next_offset,
        position=position_to_proto(state),
        owner=state.owner,
        lease=state.lease,
        last_version=writer.last_version,
        last_commit_time=timestamp_proto(writer.last_us) if writer.last_version else None,
        streaming=writer.streaming,
    )
