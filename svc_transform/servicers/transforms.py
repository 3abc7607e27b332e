"""millrace.transform.v1.TransformService: proto in, domain call, proto out."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

from millrace.client.resources import Resources
from millrace.errors import FieldInvalid
from millrace.server import runs
from millrace.server.identity import as_service, caller, caller_request_id
from millrace.transform.v1 import transform_pb2 as pb
from millrace.transform.v1 import transform_pb2_grpc
from millrace.types.v1 import run_pb2
from millrace.wire.schema import schema_to_proto
from svc_transform.convert.names import check_run_id, parent_of, transform_name
from svc_transform.convert.specs import incrementality_to_proto, recipe_from, recipe_of, transform_from
from svc_transform.domain.run import Runner


class TransformServicer(transform_pb2_grpc.TransformServiceServicer):
    """Stored recipes and their runs."""

    def __init__(self, resources: Resources, runner: Runner, ledger: runs.Runs) -> None:
        self._resources, self._runner, self._runs = resources, runner, ledger

    async def PutTransform(self, request: pb.PutTransformRequest, context: Any) -> pb.PutTransformResponse:
        wish = request.transform
        name = transform_name(wish.name, field="transform.name")
        recipe = recipe_of(name, wish.spec)
        spec = pb.TransformSpec()
        spec.CopyFrom(wish.spec)
        spec.output, spec.driving_table = recipe.output, recipe.driving_table
        await self._runner.prepare(recipe)
        with as_service():
            stored, _ = await self._resources.put(
                name,
                spec,
                etag=wish.etag,
                overwrite=not wish.etag,
                on_behalf_of=caller().principal,
                request_id=caller_request_id(request.request_id),
            )
        return pb.PutTransformResponse(transform=transform_from(stored))

    async def GetTransform(self, request: pb.GetTransformRequest, context: Any) -> pb.GetTransformResponse:
        with as_service():
            stored = await self._resources.get(transform_name(request.name, field="name"))
        return pb.GetTransformResponse(transform=transform_from(stored))

    async def ListTransforms(self, request: pb.ListTransformsRequest, context: Any) -> pb.ListTransformsResponse:
        with as_service():
            page, token = await self._resources.page(
                f"{parent_of(request.parent)}/transforms", size=request.page_size, token=request.page_token
            )
        return pb.ListTransformsResponse(transforms=map(transform_from, page), next_page_token=token)

    async def DeleteTransform(self, request: pb.DeleteTransformRequest, context: Any) -> pb.DeleteTransformResponse:
        name = transform_name(request.name, field="name")
        with as_service():
            await self._resources.delete(name, etag=request.etag, request_id=caller_request_id(request.request_id))
        return pb.DeleteTransformResponse()

    async def ValidateTransform(
        self, request: pb.ValidateTransformRequest, context: Any
    ) -> pb.ValidateTransformResponse:
        namespace = parent_of(f"namespaces/{request.namespace}" if request.namespace else "").split("/")[1]
        recipe = recipe_of(f"namespaces/{namespace}/transforms/check", request.spec)
        inspection, schema, judged, _ = await self._runner.validate(recipe)
        return pb.ValidateTransformResponse(
            schema=schema_to_proto(schema),
            inputs=inspection.inputs,
            incrementality=incrementality_to_proto(judged),
            warnings=await self._runner.differences(recipe, schema),
        )

    async def RunTransform(self, request: pb.RunTransformRequest, context: Any) -> None:
        name = transform_name(request.transform, field="transform")
        run_id = check_run_id(request.request_id)
        with as_service():
            recipe = recipe_from(await self._resources.get(name))
        if request.full_refresh and recipe.paused:
            raise FieldInvalid("the transform is paused", field="transform", hint="put it with paused: false first")
        if request.validate_only:
            await self._runner.validate(recipe)
            await context.write(pb.RunTransformResponse(event=_validated()))
            return
        spec = run_pb2.RunSpec(
            kind=run_pb2.RUN_KIND_TRANSFORM,
            subject=name,
            full_refresh=request.full_refresh,
            requested_by=caller().principal,
        )
        run = await self._runs.start(spec, run_id)
        async with aclosing(self._runs.events(run.name, request.after_sequence)) as events:  # type: ignore[type-var]
            async for event in events:
                await context.write(pb.RunTransformResponse(event=event))


def _validated() -> run_pb2.RunEvent:
    return run_pb2.RunEvent(time=runs.now(), finished=run_pb2.RunFinished(state=run_pb2.RUN_STATE_SUCCEEDED))
