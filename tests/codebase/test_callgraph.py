"""istio/callgraph.yaml says what the code does: the five services' edges, as equality; and what people may call covers what we call."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import yaml

from istio.contracts import rpcs
from tests.codebase import callgraph
from tests.codebase.tree import PRODUCT, ROOT, SERVICES, Module, modules_under

Planter = Callable[..., Module]
Edge = tuple[str, str, str, str]
"""Caller, callee, service without its package (foreign ones in full), RPC."""
HEALTH = "grpc.health.v1.Health"
OPTIONS = {"MergeRows": "op_column"}
"""RPC -> the keyword without which the client's code for it never calls it."""

NAMESAKES = {("storage", "ListResources"): "the `page` of servicers/maintenance.py is storage's own control store's"}
"""What the reading is too wide for."""


@cache
def graph() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "istio" / "callgraph.yaml").read_text())
    return found


@cache
def served() -> dict[str, tuple[str, frozenset[str]]]:
    """Service without its package -> its area and its RPCs."""
    found: dict[str, tuple[str, frozenset[str]]] = {"Health": ("all", frozenset({"Check", "Watch"}))}
    for rpc in rpcs(graph(), yaml.safe_load((ROOT / "istio" / "policy.yaml").read_text())).values():
        if rpc.service.startswith("millrace."):
            short = rpc.service.rpartition(".")[2]
            found[short] = (rpc.area, found.get(short, ("", frozenset()))[1] | {rpc.name})
    return found


@cache
def modules() -> tuple[Module, ...]:
    return tuple(module for module in modules_under(*PRODUCT) if "_pb2" not in module.path)


@cache
def read(of: tuple[Module, ...]) -> callgraph.Code:
    return callgraph.read(of)


def in_code(of: tuple[Module, ...], service: str) -> set[Edge]:
    code = read(of)
    # The memory adapters stand in for peers: they call nobody.
    roots = [name for name in code.units if name.startswith(f"svc_{service}.") and ".adapters.memory" not in name]
    assert len(roots) > 100 or len(of) < 10, "the rule looked at almost nothing"
    own = "".join(module.source for module in of if module.name.startswith(f"svc_{service}."))
    found: set[Edge] = set()
    for short, rpc in callgraph.uses(code, roots, {name: names for name, (_, names) in served().items()}):
        area = served()[short][0]
        peers = callgraph.services_called(code, service) - {service} if short == "Health" else {area}
        if (service, rpc) not in NAMESAKES and OPTIONS.get(rpc, "") in own:
            found |= {(service, peer, HEALTH if short == "Health" else short, rpc) for peer in peers}
    return found


def in_graph(caller: str) -> set[Edge]:
    return {
        (caller, callee, service, name)
        for callee, services in graph()["callers"].get(caller, {}).items()
        for service, names in services.items()
        for entry in names
        for name in (entry if isinstance(entry, list) else [entry])
    }


@pytest.mark.parametrize("service", SERVICES)
def test_services_call_what_the_call_graph_says(service: str) -> None:
    assert in_code(modules(), service) == in_graph(service)


def test_a_call_that_the_graph_lacks_is_seen(planted: Planter) -> None:
    more = planted(
        """
        from millrace.storage.v1 import storage_pb2_grpc
        def drop(connection):
            return storage_pb2_grpc.StorageServiceStub(connection.channel).DeleteTable()
        """,
        "svc_analysis/adapters/planted.py",
    )
    both = (*modules(), more)
    assert in_code(both, "analysis") - in_graph("analysis") == {
        ("analysis", "storage", "StorageService", "DeleteTable")
    }
    assert in_code(both, "extract") == in_graph("extract")


def test_a_call_that_nobody_makes_any_more_is_seen() -> None:
    fewer = tuple(module for module in modules() if module.path != "svc_storage/adapters/committer_client.py")
    assert in_graph("storage") - in_code(fewer, "storage") == {("storage", "storage", "CommitterService", "Commit")}


def test_a_call_by_way_of_the_client_is_seen(planted: Planter) -> None:
    more = planted(
        """
        from millrace.client.lookup import LookUps, lookup
        async def find(connection):
            return await lookup(connection, "t", [])
        """,
        "svc_viz/adapters/planted.py",
    )
    client = planted(
        """
        from millrace.storage.v1 import storage_pb2_grpc
        async def lookup(connection, name, keys):
            stub = storage_pb2_grpc.StorageServiceStub(connection.channel)
            return await stub.LookupRows(name)
        async def never_called(connection):
            return await storage_pb2_grpc.StorageServiceStub(connection.channel).EraseRows()
        """,
        "millrace/client/lookup.py",
    )
    rest = tuple(module for module in modules() if module.path != client.path)
    found = {rpc for _, _, _, rpc in in_code((*rest, client, more), "viz")}
    assert "LookupRows" in found
    assert "EraseRows" not in found


def test_people_may_call_what_the_client_and_the_command_line_call() -> None:
    code = read(modules())
    roots = [name for name in code.units if name.startswith(("millrace.client.", "millrace.cli."))]
    internal = {"LeaseService", "ResourceService", "CommitterService", "AdminService", "Health"}
    used = callgraph.uses(code, roots, {name: names for name, (_, names) in served().items() if name not in internal})
    assert len(used) > 20
    assert used <= {(service, rpc) for _, _, service, rpc in in_graph("ingress")}
