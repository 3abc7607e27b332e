"""What every RPC keeps (contracts, rules for all), read from the descriptors of the generated code."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from google.api import field_behavior_pb2
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor, MethodDescriptor

from millrace import errors
from tests.codebase.tree import ROOT, SERVICES, modules_under
from tools import protogen

Rule = Callable[[MethodDescriptor], str]
Options = descriptor_pb2.MethodOptions

READS = tuple(
    "Get List Check Validate Explain Plan Lookup Read Watch Query Subscribe Preview Discover Profile Fit Forecast Render".split()  # noqa: SIM905
)
CHANGES = tuple(
    "Commit Create Put Update Delete Acquire Renew Release Run Pause Resume Cancel Set Drain".split()  # noqa: SIM905
    + "Compact Expire Restore Erase Export Import".split()  # noqa: SIM905
)
RUNS = {"CheckTable"}
"""Named like a read; it stores a run, and may repair."""
SET_A_STATE = {"RenewLease", "ReleaseLease", "SetLogLevel", "Drain"}
"""IDEMPOTENT without a request_id: an epoch or the state itself makes a repeat harmless."""
ENDS = {"end", "done", "finished", "error"}
ENDLESS = ("Watch", "Subscribe")


@cache
def files() -> tuple[FileDescriptor, ...]:
    modules = [
        f"millrace.{path.parent.parent.name}.v1.{path.stem}" for path in sorted(ROOT.glob("millrace/*/v1/*_pb2.py"))
    ]
    assert len(modules) >= 7, "the rule looked at almost nothing"
    return tuple(importlib.import_module(name).DESCRIPTOR for name in modules)


def methods(of: tuple[FileDescriptor, ...]) -> Iterator[MethodDescriptor]:
    for file in of:
        for service in file.services_by_name.values():
            yield from service.methods


def level(method: MethodDescriptor) -> int:
    return method.GetOptions().idempotency_level


def required(field: FieldDescriptor) -> bool:
    return field_behavior_pb2.REQUIRED in field.GetOptions().Extensions[field_behavior_pb2.field_behavior]


def starts(method: MethodDescriptor, verbs: tuple[str, ...]) -> bool:
    return any(re.match(rf"{verb}(?=[A-Z]|$)", method.name) for verb in verbs)


def frames(message: Descriptor) -> set[str]:
    """The kinds of message in a stream: fields of the response, and of an `event` in it."""
    names = {field.name for field in message.fields}
    event = message.fields_by_name.get("event")
    return names | (
        {field.name for field in event.message_type.fields} if event is not None and event.message_type else set()
    )


def says_its_level(method: MethodDescriptor) -> str:
    return "" if method.GetOptions().HasField("idempotency_level") else "say its idempotency_level"


def level_fits_the_name(method: MethodDescriptor) -> str:
    if method.client_streaming:
        return "" if level(method) == Options.IDEMPOTENCY_UNKNOWN else "a bidi RPC is IDEMPOTENCY_UNKNOWN"
    if starts(method, READS) and method.name not in RUNS:
        return "" if level(method) == Options.NO_SIDE_EFFECTS else "a read is NO_SIDE_EFFECTS"
    if starts(method, CHANGES) or method.name in RUNS:
        return "" if level(method) == Options.IDEMPOTENT else "a change is IDEMPOTENT"
    return "begin with a verb of READS or CHANGES, or add yours there"


def repeats_are_known(method: MethodDescriptor) -> str:
    if level(method) != Options.IDEMPOTENT or method.name in SET_A_STATE:
        return ""
    field = method.input_type.fields_by_name.get("request_id")
    return (
        ""
        if field is not None and required(field)
        else "IDEMPOTENT needs a REQUIRED request_id, whose outcome is stored"
    )


def never_client_streaming(method: MethodDescriptor) -> str:
    alone = method.client_streaming and not method.server_streaming
    return "no client-streaming RPC: a cancel looks like normal end of input" if alone else ""


def fails_in_band(method: MethodDescriptor) -> str:
    if not method.client_streaming:
        return ""
    field = method.output_type.fields_by_name.get("error")
    typed = field is not None and field.message_type is not None and field.message_type.full_name == "google.rpc.Status"
    return "" if typed else "a bidi response has `google.rpc.Status error`"


def finishes_expressly(method: MethodDescriptor) -> str:
    return (
        ""
        if not method.client_streaming or "finish" in method.input_type.fields_by_name
        else "a request stream ends with `finish`"
    )


def ends_expressly(method: MethodDescriptor) -> str:
    if not method.server_streaming or starts(method, ENDLESS):
        return ""
    return "" if ENDS & frames(method.output_type) else "a finite response stream ends with `end`, `done` or `finished`"


def beats_when_idle(method: MethodDescriptor) -> str:
    if not method.server_streaming or not starts(method, (*ENDLESS, "Run", "Read", "Query", "Append", "Ingest")):
        return ""
    beats = {"heartbeat", "bookmark"} & frames(method.output_type)
    return "" if beats else "a stream that may idle has `heartbeat` or `bookmark`"


RULES: tuple[Rule, ...] = (
    says_its_level, level_fits_the_name, repeats_are_known, never_client_streaming, fails_in_band, finishes_expressly, ends_expressly,
    beats_when_idle,
)  # fmt: skip

GOOD = """
  rpc GetThing(GetThingRequest) returns (GetThingResponse) { option idempotency_level = NO_SIDE_EFFECTS; }
  rpc PutThing(PutThingRequest) returns (PutThingResponse) { option idempotency_level = IDEMPOTENT; }
  rpc ReadThings(ReadThingsRequest) returns (stream ReadThingsResponse) { option idempotency_level = NO_SIDE_EFFECTS; }
  rpc AppendThings(stream AppendThingsRequest) returns (stream AppendThingsResponse) { option idempotency_level = IDEMPOTENCY_UNKNOWN; }
"""
PLANTED = {
    says_its_level: ("GetThing", "{ option idempotency_level = NO_SIDE_EFFECTS; }", ";"),
    level_fits_the_name: ("GetThing", "NO_SIDE_EFFECTS", "IDEMPOTENT"),
    repeats_are_known: (
        "PutThing",
        "string request_id = 1 [(google.api.field_behavior) = REQUIRED];",
        "string request_id = 1;",
    ),
    never_client_streaming: ("AppendThings", "returns (stream AppendThingsResponse)", "returns (AppendThingsResponse)"),
    fails_in_band: ("AppendThings", "google.rpc.Status error", "string error"),
    finishes_expressly: ("AppendThings", "bool finish", "bool stop"),
    ends_expressly: ("ReadThings", "bool end", "bool last"),
    beats_when_idle: ("ReadThings", "bool heartbeat", "bool beat"),
}
MESSAGES = """
message GetThingRequest {} message GetThingResponse {} message PutThingResponse {} message ReadThingsRequest {}
message PutThingRequest { string request_id = 1 [(google.api.field_behavior) = REQUIRED]; }
message ReadThingsResponse { oneof message { bool heartbeat = 1; bool end = 2; } }
message AppendThingsRequest { oneof message { bool open = 1; bool finish = 2; } }
message AppendThingsResponse { oneof message { bool heartbeat = 1; google.rpc.Status error = 2; } }
"""


def compiled(body: str, folder: Path) -> tuple[FileDescriptor, ...]:
    """The descriptors of a planted contract."""
    head = 'syntax = "proto3"; package planted.v1; import "google/api/field_behavior.proto"; import "google/rpc/status.proto";'
    (folder / "planted.proto").write_text(head + body)
    command = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        f"-I{folder}",
        f"-I{ROOT / 'third_party/protos'}",
        "--include_imports",
    ]
    subprocess.run([*command, f"--descriptor_set_out={folder / 'set'}", "planted.proto"], check=True, cwd=folder)
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString((folder / "set").read_bytes()).file:
        pool.Add(file)
    return (pool.FindFileByName("planted.proto"),)


def broken(rule: Rule, of: tuple[FileDescriptor, ...]) -> list[str]:
    return [f"{method.full_name}: {why}" for method in methods(of) if (why := rule(method))]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_rpc_keeps(rule: Rule, tmp_path: Path) -> None:
    assert len(list(methods(files()))) >= 40, "the rule looked at almost nothing"
    assert not (found := broken(rule, files())), found
    service = "service ThingService {" + GOOD + "}" + MESSAGES
    assert not broken(rule, compiled(service, tmp_path)), "the good contract is good"
    name, right, wrong = PLANTED[rule]
    assert right in service
    assert [
        line.split(":")[0].rpartition(".")[2]
        for line in broken(rule, compiled(service.replace(right, wrong, 1), tmp_path))
    ] == [name]


def test_every_file_names_its_packages_for_other_languages() -> None:
    for file in files():
        options = file.GetOptions()
        assert options.go_package, file.name
        assert options.java_package == "dev." + file.package, file.name
        assert options.java_multiple_files, file.name


def test_reasons_are_the_same_in_the_contract_and_in_errors() -> None:
    (enum,) = (file.enum_types_by_name["Reason"] for file in files() if "Reason" in file.enum_types_by_name)
    declared = {name.removeprefix("REASON_") for name in enum.values_by_name} - {"UNSPECIFIED"}
    assert declared == set(errors.reasons())


def test_stubs_are_fresh(tmp_path: Path) -> None:
    protogen.generate(ROOT, tmp_path)
    assert not (found := protogen.differences(ROOT, tmp_path)), f"{found}: run `make proto`"
    stub = next(tmp_path.glob("millrace/*/v1/*_pb2.py"))
    stub.write_text(stub.read_text() + "# planted\n")
    assert protogen.differences(ROOT, tmp_path) == [f"{stub.relative_to(tmp_path)}: stale"]


def generated_servicers() -> dict[str, type]:
    modules = [
        f"millrace.{path.parent.parent.name}.v1.{path.stem}"
        for path in sorted(ROOT.glob("millrace/*/v1/*_pb2_grpc.py"))
    ]
    found = {
        name: kind
        for module in modules
        for name, kind in vars(importlib.import_module(module)).items()
        if name.endswith("Servicer")
    }
    assert len(found) >= 8, "the rule looked at almost nothing"
    return found


def unanswered(base: type, implementations: list[type]) -> list[str]:
    """RPCs of `base` that none of its hand-written subclasses answers."""
    rpcs = [name for name in vars(base) if not name.startswith("_")]
    return [
        f"{base.__name__}.{name}"
        for name in rpcs
        if not any(getattr(kind, name) is not getattr(base, name) for kind in implementations)
    ]


def test_every_declared_rpc_is_answered() -> None:
    """Declare an RPC only when it works: no UNIMPLEMENTED anywhere."""
    for module in modules_under("millrace/server", *(f"svc_{service}/servicers" for service in SERVICES)):
        importlib.import_module(module.name)
    for base in generated_servicers().values():
        assert not (found := unanswered(base, base.__subclasses__())), found


def test_an_unanswered_rpc_is_seen() -> None:
    base = generated_servicers()["LeaseServiceServicer"]
    half = type(
        "Half", (), {"AcquireLease": lambda: None, "RenewLease": lambda: None, "ReleaseLease": base.ReleaseLease}
    )  # type: ignore[attr-defined]
    assert unanswered(base, [half]) == ["LeaseServiceServicer.ReleaseLease"]


def test_servicers_are_tested_through_pytest_grpc() -> None:
    """One contract suite per service that goes over a real channel (pytest-grpc hosts the servicer)."""
    for service in SERVICES:
        sources = [module.source for module in modules_under(f"tests/contract/{service}")]
        assert any("grpc_servicer" in source for source in sources), (
            f"tests/contract/{service}: override pytest-grpc's grpc_servicer"
        )
