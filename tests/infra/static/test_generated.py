"""istio/generate.py: what is committed is fresh, and `--check` names what is not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from millrace.client.service_config import SERVICE_CONFIG
from tests.codebase.tree import ROOT, SERVICES

COPIED = ("istio", "protos", "third_party", "millrace", "docs/reference")
STORAGE = "millrace.storage.v1.StorageService"


def check(root: Path) -> tuple[int, str]:
    command = [sys.executable, "istio/generate.py", "--check"]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    return run.returncode, run.stdout + run.stderr


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    for name in COPIED:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def replaced(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_what_is_committed_is_fresh() -> None:
    assert check(ROOT) == (0, "9 files are fresh\n")


def test_an_rpc_without_a_level_is_named(copied: Path) -> None:
    proto = copied / "protos/millrace/storage/v1/storage.proto"
    start = proto.read_text().index("rpc LookupRows(")
    text = proto.read_text()
    proto.write_text(text[:start] + text[start:].replace("    option idempotency_level = NO_SIDE_EFFECTS;\n", "", 1))
    code, said = check(copied)
    assert (code, said) == (1, f"{STORAGE}/LookupRows: its proto gives no idempotency_level\n")


def test_an_edge_that_is_gone_is_named(copied: Path) -> None:
    of_transform = "PlanRead, ReadRows, ListSplitFiles, WatchTable]\n      Resource"
    replaced(copied / "istio/callgraph.yaml", of_transform, of_transform.replace("ListSplitFiles, ", ""))
    code, said = check(copied)
    assert code == 1
    assert "istio/generated/authorizationpolicies.yaml is stale" in said
    (named,) = (line for line in said.splitlines() if "ListSplitFiles" in line)
    before, after = named.split("should be")
    assert before.startswith(f"`{STORAGE}/ListSplitFiles`: generated as")
    assert ("transform" in before, "transform" in after) == (True, False)


def test_a_new_rpc_is_named(copied: Path) -> None:
    proto = copied / "protos/millrace/storage/v1/storage.proto"
    rpc = "rpc MoveTable(GetTableRequest) returns (GetTableResponse) { option idempotency_level = IDEMPOTENT; }\n"
    replaced(proto, "  rpc ListTables(", f"  {rpc}  rpc ListTables(")
    assert check(copied) == (1, f"{STORAGE}/MoveTable: called by nobody in callgraph.yaml\n")


def test_an_unknown_rpc_is_named(copied: Path) -> None:
    replaced(copied / "istio/callgraph.yaml", "Service: [GetTable, WatchTable]", "Service: [GetTables, WatchTable]")
    assert check(copied) == (1, "viz -> storage: there is no StorageService/GetTables in protos/\n")


def test_a_file_changed_by_hand_is_named(copied: Path) -> None:
    replaced(copied / "istio/generated/destinationrules.yaml", "percent: 20", "percent: 90")
    assert check(copied) == (1, "istio/generated/destinationrules.yaml is stale\n")


def objects(name: str) -> dict[str, Any]:
    made = yaml.safe_load_all((ROOT / "istio" / "generated" / f"{name}.yaml").read_text())
    return {one["metadata"]["name"]: one["spec"] for one in made}


def test_routes_say_what_each_class_allows() -> None:
    routes = {route["name"]: route for route in objects("virtualservices")["storage"]["http"]}
    paths = {name: [match["uri"]["exact"] for match in route.get("match", ())] for name, route in routes.items()}
    answered = "connect-failure,refused-stream,reset-before-request,reset,unavailable"
    twice = {"attempts": 2, "retryOn": answered, "backoff": "25ms"}
    assert routes["read"]["retries"] == routes["read-stream"]["retries"] == routes["idempotent"]["retries"] == twice
    assert routes["run"]["retries"] == twice | {"attempts": 1}
    assert routes["both-ways"]["retries"] == routes["fallback"]["retries"] == {"attempts": 0}
    kinds = {"AppendRows": "both-ways", "CompactTable": "run", "WatchTable": "read-stream", "CreateTable": "idempotent"}
    assert all(f"/{STORAGE}/{rpc}" in paths[kind] for rpc, kind in kinds.items())
    assert list(routes)[-1] == "fallback"
    assert "match" not in routes["fallback"]
    assert all("timeout" not in route and "perTryTimeout" not in route["retries"] for route in routes.values())


def test_people_come_to_the_balanced_host_of_each_service() -> None:
    routes = [route for route in objects("ingress")["ingress"]["http"] if "route" in route]
    hosts = {entry["destination"]["host"].split(".")[0] for route in routes for entry in route["route"]}
    assert hosts == {*SERVICES, "viz-page"}


def test_outside_the_mesh_the_same_calls_are_repeated() -> None:
    config = json.loads(SERVICE_CONFIG)
    assert (ROOT / "istio/generated/service_config.json").read_text() == SERVICE_CONFIG + "\n"
    tries = {
        f"/{name['service']}/{name['method']}": method["retryPolicy"]["maxAttempts"]
        for method in config["methodConfig"]
        for name in method["name"]
    }
    routes = [route for host in objects("virtualservices").values() for route in host["http"] if "match" in route]
    inside = {match["uri"]["exact"]: 1 + route["retries"]["attempts"] for route in routes for match in route["match"]}
    assert tries == {path: attempts for path, attempts in inside.items() if attempts > 1}
    # gRPC refuses a channel whose service config it cannot read, at its first call.
    with grpc.insecure_channel("127.0.0.1:1", options=[("grpc.service_config", SERVICE_CONFIG)]) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary(f"/{STORAGE}/GetTable")(b"", timeout=2)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "service config" not in str(refused.value.details()).lower()
