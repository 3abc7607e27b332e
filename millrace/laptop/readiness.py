"""Asks a service's health until it serves. Imported after the fork: gRPC does not survive one."""

from __future__ import annotations

import asyncio

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

PAUSE_S = 0.1
_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.use_local_subchannel_pool", 1),
)


def wait_ready(target: str) -> asyncio.Task[None]:
    """A task that ends once `target` says SERVING for "readiness"."""
    return asyncio.create_task(_ask(target), name=f"readiness of {target}")


async def _ask(target: str) -> None:
    async with grpc.aio.insecure_channel(target, options=_OPTIONS) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        while True:
            try:
                answer = await health.Check(health_pb2.HealthCheckRequest(service="readiness"), timeout=2.0)
            except grpc.aio.AioRpcError:
                pass
            else:
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return
            await asyncio.sleep(PAUSE_S)
