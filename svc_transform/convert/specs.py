"""Transforms between the contract, the stored resource and the domain."""

from __future__ import annotations

import time

from millrace.errors import FieldInvalid, FieldRequired
from millrace.storage.v1 import resources_pb2
from millrace.transform.v1 import transform_pb2
from millrace.types.v1 import run_pb2, types_pb2
from millrace.wire.clock import duration_micros
from svc_transform.domain.names import table_name
from svc_transform.ports import Incrementality, Plan, Recipe, Report

MAX_DELAY_MS = 3_600_000
DEFAULT_DELAY_MS = 200


def recipe_of(
    name: str, spec: transform_pb2.TransformSpec, *, uid: str = "", generation: int = 0, owner: str = ""
) -> Recipe:
    """The domain's recipe. Raises FieldInvalid, FieldRequired at `transform.spec.…`."""
    if not spec.output:
        raise FieldRequired("the output table is missing", field="transform.spec.output")
    delay_ms = DEFAULT_DELAY_MS
    if spec.HasField("max_delay"):
        delay_ms = duration_micros(spec.max_delay, "transform.spec.max_delay") // 1000
        if not 0 <= delay_ms <= MAX_DELAY_MS:
            raise FieldInvalid("max_delay lies between 0 and 3,600 s", field="transform.spec.max_delay")
    namespace = name.split("/")[1] if name.count("/") >= 3 else "default"
    output = table_name(spec.output, namespace, field="transform.spec.output")
    if output.split("/")[1] != namespace:
        raise FieldInvalid("a transform writes within its own namespace", field="transform.spec.output")
    return Recipe(
        name=name,
        uid=uid,
        generation=generation,
        sql=spec.sql,
        output=output,
        driving_table=spec.driving_table
        and table_name(spec.driving_table, namespace, field="transform.spec.driving_table"),
        event_time_column=spec.event_time_column,
        fail_on_bad_row=spec.on_bad_row == types_pb2.ON_BAD_ROW_FAIL,
        max_delay_ms=delay_ms,
        paused=spec.paused,
        owner=owner,
    )


def recipe_from(resource: resources_pb2.Resource) -> Recipe:
    """A stored transform's recipe."""
    spec = transform_pb2.TransformSpec()
    resource.spec.Unpack(spec)
    return recipe_of(resource.name, spec, uid=resource.uid, generation=resource.generation, owner=resource.owner)


def transform_from(resource: resources_pb2.Resource) -> transform_pb2.Transform:
    """A stored transform as the contract shows it."""
    transform = transform_pb2.Transform(name=resource.name, uid=resource.uid, etag=resource.etag, owner=resource.owner)
    resource.spec.Unpack(transform.spec)
    if resource.HasField("status"):
        resource.status.Unpack(transform.status)
    return transform


def incrementality_to_proto(judged: Incrementality) -> transform_pb2.Incrementality:
    return transform_pb2.Incrementality(append_safe=judged.append_safe, reason=judged.reason, message=judged.message)


def planned_to_proto(step: Plan) -> run_pb2.RunPlanned:
    inputs = [
        run_pb2.RunInput(table=part.table, after_version=part.after_version, version=part.version)
        for part in step.inputs
    ]
    return run_pb2.RunPlanned(inputs=inputs, full_refresh=step.full_refresh, reason=step.reason)


def status_to_proto(report: Report, status: transform_pb2.TransformStatus) -> None:
    """Writes what `report` says into `status`; totals stay."""
    status.state = run_pb2.WorkState.Value(f"WORK_STATE_{report.state}")
    status.cause = report.cause
    status.rows_per_second = 0.0 if report.state != "RUNNING" else status.rows_per_second
    status.ClearField("next_attempt_time")
    if report.pause_s:
        status.next_attempt_time.FromNanoseconds(time.time_ns() + round(report.pause_s * 1e9))
    if report.judged is not None:
        status.incrementality.CopyFrom(incrementality_to_proto(report.judged))
