"""Callers choose request ids without knowing each other's."""

from __future__ import annotations

from typing import Any

from millrace.server.identity import Caller, set_caller
from svc_extract.adapters.storage.catalog import StorageCatalog


class Recorder:
    def __init__(self) -> None:
        self.ids: list[str] = []

    async def delete(self, name: str, *, etag: str, request_id: str) -> None:
        self.ids.append(request_id)


async def test_a_deletion_belongs_to_its_caller() -> None:
    catalog, recorder = StorageCatalog.__new__(StorageCatalog), Recorder()
    resources: Any = recorder
    catalog._resources = resources
    for principal in ("ada", "bob", "ada"):
        set_caller(Caller(principal))
        await catalog.delete_source("namespaces/default/sources/orders", etag="", request_id="d1")
    ada, bob, again = recorder.ids
    assert ada == again
    assert ada != bob
