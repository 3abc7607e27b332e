"""Every RPC says who may call it, and the layer finds what a request names by that alone."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import MethodDescriptor

from millrace import errors
from millrace.analysis.v1 import analysis_pb2, query_pb2
from millrace.extract.v1 import extract_pb2
from millrace.server import names
from millrace.server.access import Gate, access_of, faults, named_in
from millrace.server.rights import ALL_RIGHTS, Rights
from millrace.storage.v1 import storage_pb2
from millrace.types.v1 import access_pb2

PACKAGE = Path(access_pb2.__file__).resolve().parents[2]
STORAGE = "/millrace.storage.v1.StorageService"
A, B = "namespaces/a/tables/t", "namespaces/b/tables/t"


def methods() -> Iterator[MethodDescriptor]:
    for path in sorted(PACKAGE.glob("*/v1/*_pb2.py")):
        module = importlib.import_module(f"millrace.{path.parent.parent.name}.v1.{path.stem}")
        for service in module.DESCRIPTOR.services_by_name.values():
            yield from service.methods


def test_every_rpc_says_who_may_call_it() -> None:
    found = list(methods())
    assert len(found) > 50, "the rule looked at too little"
    assert not [f"{one.full_name} {fault}" for one in found for fault in faults(one)]


def planted(
    name: str, *needs: access_pb2.Need, callers: access_pb2.Callers.ValueType = access_pb2.CALLERS_UNSPECIFIED
) -> MethodDescriptor:
    """A method of its own pool with these needs; its request is ListRuns'."""
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{name}.proto", package="planted", dependency=[storage_pb2.DESCRIPTOR.name]
    )
    method = file.service.add(name=name).method.add(name="Do")
    method.input_type = method.output_type = ".millrace.storage.v1.ListRunsRequest"
    method.options.Extensions[access_pb2.access].CopyFrom(access_pb2.Access(needs=needs, callers=callers))
    pool = descriptor_pool.Default()
    return pool.AddSerializedFile(file.SerializeToString()).services_by_name[name].methods_by_name["Do"]


def test_a_planted_rpc_without_one_fails_by_name() -> None:
    reader = [access_pb2.ROLE_READER]
    assert "declares no access" in " ".join(faults(planted("Silent")))
    assert "needs no role" in " ".join(faults(planted("NoRole", access_pb2.Need(field="parent"))))
    assert "is no field" in " ".join(faults(planted("NoField", access_pb2.Need(any_of=reader, field="tables"))))
    left_out = planted("LeftOut", access_pb2.Need(any_of=reader, field="table"))
    assert "may be left out" in " ".join(faults(left_out))
    assert not list(faults(planted("Good", access_pb2.Need(any_of=reader, field="parent"))))
    gate = Gate("ann", ALL_RIGHTS, access_of("/planted.Silent/Do"), {}, method="Silent")
    with pytest.raises(errors.NotAllowed, match="declares no access"):
        gate.admit()


def gate(rights: Rights, method: str = "GetTable", resource: str = "") -> Gate:
    return Gate(
        "ann", rights, access_of(f"{STORAGE}/{method}"), {names.RESOURCE: resource} if resource else {}, method=method
    )


@pytest.mark.parametrize(
    ("grants", "name", "allowed"),
    [
        ({"a": "reader"}, A, True),
        ({"a": "reader"}, B, False),
        ({"*": "reader"}, B, True),
        ({"a.t": "reader"}, A, True),
        ({"a.t": "reader"}, f"{A}$dead_letters", True),
        ({"a.t": "reader"}, "namespaces/a/tables/u", False),
        ({"a.t": "reader"}, "namespaces/a/sources/t", False),
        ({"default": "reader"}, "t", True),
        ({"a": "reader"}, "t", False),
        ({"a": "king"}, A, False),
        ({}, A, False),
        (["a:writer"], A, True),
        ("reader", A, False),
    ],
)
def test_where_a_role_counts(grants: object, name: str, allowed: bool) -> None:
    asked = storage_pb2.GetTableRequest(name=name)
    if allowed:
        gate(Rights.of(grants)).check(asked)
    else:
        with pytest.raises(errors.NotAllowed) as caught:
            gate(Rights.of(grants)).check(asked)
        assert caught.value.metadata["role"] == "reader"
        assert caught.value.hint


@pytest.mark.parametrize(
    ("role", "may", "may_not"),
    [
        ("reader", ("PlanRead", "WatchTable"), ("CompactTable", "UpdateTable", "EraseRows", "DeleteWriter")),
        ("writer", ("PlanRead",), ("CompactTable", "ExpireVersions", "EraseRows", "RestoreTable")),
        ("operator", ("PlanRead", "CompactTable", "ExpireVersions", "CheckTable", "ExportTable"), ("EraseRows", "RestoreTable")),
        ("admin", ("PlanRead", "CompactTable", "EraseRows", "RestoreTable", "ImportTable"), ()),
    ],
)  # fmt: skip
def test_what_a_role_may(role: str, may: tuple[str, ...], may_not: tuple[str, ...]) -> None:
    rights = Rights.of({"a": role})
    for method in may + may_not:
        allowed = rights.allow(access_of(f"{STORAGE}/{method}").needs[0].any_of, "a", "t")
        assert allowed == (method in may), method
    assert Rights.of({"a": "operator"}).allow({"writer"}, "a") is False


def test_only_services_and_admins_of_everything_reach_resources() -> None:
    put = access_of("/millrace.storage.v1.ResourceService/PutResource")
    with pytest.raises(errors.NotAllowed, match="only services"):
        Gate("ann", Rights.of({"a": "admin"}), put, {}).admit()
    Gate("root", Rights.of({"*": "admin"}), put, {}).admit()
    Gate("extract", Rights(), put, {}, trusted=True).admit()


def test_names_follow_the_requests_namespace() -> None:
    spec = query_pb2.QuerySpec(table="t")
    asked = analysis_pb2.QueryRequest(spec=spec, namespace="a")
    found = named_in(asked, ("spec", "table"))
    assert found is not None
    assert (found.resource, found.namespace, found.table) == (A, "a", "t")
    assert named_in(analysis_pb2.QueryRequest(namespace="a"), ("spec", "table")) is None
    listed = named_in(storage_pb2.ListTablesRequest(), ("parent",))
    assert listed is not None
    assert listed.namespace == "default"


def test_each_thing_that_a_request_names_is_checked() -> None:
    put = access_of("/millrace.extract.v1.ExtractService/PutSource")
    source = extract_pb2.Source(name="namespaces/a/sources/s", spec=extract_pb2.SourceSpec(table=B))
    with pytest.raises(errors.NotAllowed) as caught:
        Gate("ann", Rights.of({"a": "writer"}), put, {}).check(extract_pb2.PutSourceRequest(source=source))
    assert caught.value.field == "source.spec.table"


def test_the_metadata_names_what_the_body_names() -> None:
    asked = storage_pb2.GetTableRequest(name=A)
    gate(ALL_RIGHTS, resource=A).check(asked)
    with pytest.raises(errors.FieldInvalid, match="x-millrace-resource"):
        gate(ALL_RIGHTS, resource=B).check(asked)


def test_nothing_leaves_before_a_token_was_looked_into() -> None:
    held = gate(Rights.of({"a": "reader"}), "ListSplitFiles")
    held.check(storage_pb2.ListSplitFilesRequest(split_token=b"x"))
    with pytest.raises(errors.Unexpected):
        held.require_open()
    with pytest.raises(errors.NotAllowed):
        held.settle(B)
    held.settle(A)
    held.require_open()
    told = gate(Rights.of({"*": "reader"}), "ReadRows", resource=A)
    told.check(storage_pb2.ReadRowsRequest(split_token=b"x"))
    with pytest.raises(errors.FieldInvalid):
        told.settle(B)


@pytest.mark.parametrize(
    "name", ["namespaces/A/tables/t", "../t", "namespaces/a/tables/", "namespaces//tables/t", "a b"]
)
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(errors.FieldInvalid):
        gate(Rights.of({"a": "admin"})).check(storage_pb2.GetTableRequest(name=name))


def test_rights_are_said_shortly() -> None:
    assert str(Rights.of({"b.t": "reader", "a": ["writer", "operator"], "*": []})) == "a=operator+writer, b.t=reader"
    assert str(Rights.of({"*": "admin"})) == "*=admin"
    assert str(Rights()) == "none"
