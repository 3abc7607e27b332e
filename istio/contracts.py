"""The contracts as policy sees them: every RPC with its class, and who may call it. Read from protos/, callgraph.yaml, policy.yaml."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2

ROOT = Path(__file__).resolve().parents[1]
STREAMS = {(False, False): "none", (False, True): "server", (True, False): "client", (True, True): "both"}
LEVELS = descriptor_pb2.MethodOptions.IdempotencyLevel
Yaml = dict[str, Any]
Edges = dict[tuple[str, str], "list[Rpc]"]
"""(callee, caller) -> what may be called."""


@dataclass(frozen=True)
class Rpc:
    """`area`: the service that serves it, or "all". `kind`: its class in policy.yaml, with what that allows."""

    service: str
    name: str
    area: str
    stream: bool
    kind: str
    policy: Yaml

    @property
    def path(self) -> str:
        return f"{self.service}/{self.name}"

    def answers(self, callee: str, service: str, name: str) -> bool:
        """`service`: in full, or without its package."""
        named = service in (self.service, self.service.rpartition(".")[2])
        return named and self.name == name and self.area in (callee, "all")


class Stale(Exception):
    """What is wrong with the sources themselves."""


def described() -> Iterator[tuple[str, Any]]:
    """Every RPC of protos/: its service's full name and its descriptor."""
    sources = sorted(str(path.relative_to(ROOT / "protos")) for path in (ROOT / "protos").rglob("*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "set"
        includes = [f"-I{ROOT / include}" for include in ("protos", "third_party/protos")]
        command = [sys.executable, "-m", "grpc_tools.protoc", *includes, f"--descriptor_set_out={out}", *sources]
        subprocess.run(command, check=True)
        found = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())
    for file in found.file:
        for service in file.service:
            yield from ((f"{file.package}.{service.name}", method) for method in service.method)


def rpcs(graph: Yaml, policy: Yaml) -> dict[str, Rpc]:
    """By path. Raises Stale naming RPCs without a class."""
    found, faults, classes = dict[str, Rpc](), list[str](), policy["classes"]
    for service, method in described():
        path, streams = f"{service}/{method.name}", STREAMS[method.client_streaming, method.server_streaming]
        area = "all" if service.rpartition(".")[2] in graph["served_by_all"] else service.split(".")[1]
        level = LEVELS.Name(method.options.idempotency_level)
        fits = [name for name, rule in classes.items() if level in rule["levels"] and streams in rule["streams"]]
        kind = next(iter(fits), "both-ways")
        if not method.options.HasField("idempotency_level"):
            faults.append(f"{path}: its proto gives no idempotency_level")
        elif not fits:
            faults.append(f"{path}: no class of policy.yaml fits {level} with streams: {streams}")
        found[path] = Rpc(service, method.name, area, streams != "none", kind, classes[kind])
    for service, names in graph["served_by_all"].items():
        for name in names if "." in service else ():
            exceptions = policy["exceptions"]
            kind, _ = exceptions.get(f"{service}/{name}") or exceptions[f"{service}/*"]
            streamed = kind in ("read-stream", "both-ways")
            found[f"{service}/{name}"] = Rpc(service, name, "all", streamed, kind, classes[kind])
    if faults:
        raise Stale("\n".join(faults))
    return found


def edges(graph: Yaml, known: dict[str, Rpc]) -> Edges:
    """(callee, caller) -> what may be called. Raises Stale naming RPCs that do not exist, and those that nobody calls."""
    found, faults = Edges(), list[str]()
    for caller, callees in graph["callers"].items():
        for callee, services in callees.items():
            wanted = graph["served_by_all"] if services == "served_by_all" else services
            for service, names in wanted.items():
                for name in (n for entry in names for n in (entry if isinstance(entry, list) else [entry])):
                    match = [rpc for rpc in known.values() if rpc.answers(callee, service, name)]
                    if len(match) != 1:
                        faults.append(f"{caller} -> {callee}: there is no {service}/{name} in protos/")
                    found.setdefault((callee, caller), []).extend(match)
    called = {rpc.path for several in found.values() for rpc in several}
    faults += [f"{path}: called by nobody in callgraph.yaml" for path in sorted(set(known) - called)]
    if faults:
        raise Stale("\n".join(faults))
    return found
