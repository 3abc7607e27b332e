"""Dashboards as resources of storage. Calls go out as this service: storage refuses people here, and viz has checked what it stores."""

from __future__ import annotations

from datetime import UTC

from millrace.client.channel import Connection
from millrace.client.resources import Resources
from millrace.errors import Unexpected
from millrace.server.identity import as_service
from millrace.storage.v1 import resources_pb2
from millrace.viz.v1.dashboard_pb2 import DashboardSpec
from svc_viz.convert.dashboards import spec_from, spec_to
from svc_viz.ports import Dashboard, DashboardPage


def dashboard_of(resource: resources_pb2.Resource) -> Dashboard:
    """Raises Unexpected where a resource holds something else."""
    spec = DashboardSpec()
    if not resource.spec.Unpack(spec):
        raise Unexpected(f"{resource.name} does not hold a dashboard")
    return Dashboard(
        name=resource.name,
        spec=spec_from(spec),
        uid=resource.uid,
        etag=resource.etag,
        owner=resource.owner,
        update_time=resource.update_time.ToDatetime(UTC) if resource.HasField("update_time") else None,
        source=resource.spec.value,
    )


class StoredDashboards:
    """Implements `Dashboards`."""

    def __init__(self, connection: Connection) -> None:
        self._resources = Resources(connection)

    async def put(self, dashboard: Dashboard, *, request_id: str, on_behalf_of: str) -> Dashboard:
        message = DashboardSpec.FromString(dashboard.source) if dashboard.source else spec_to(dashboard.spec)
        with as_service():
            stored, _ = await self._resources.put(
                dashboard.name,
                message,
                etag=dashboard.etag,
                overwrite=not dashboard.etag,
                on_behalf_of=on_behalf_of,
                request_id=request_id,
            )
        return dashboard_of(stored)

    async def get(self, name: str) -> Dashboard:
        with as_service():
            return dashboard_of(await self._resources.get(name))

    async def list(self, namespace: str, *, page_size: int, page_token: str) -> DashboardPage:
        with as_service():
            found, token = await self._resources.page(
                f"namespaces/{namespace}/dashboards", size=page_size, token=page_token
            )
        return DashboardPage(tuple(dashboard_of(one) for one in found), token)

    async def delete(self, name: str, *, request_id: str, etag: str) -> None:
        with as_service():
            await self._resources.delete(name, etag=etag, request_id=request_id)
