"""Which rights a call needs: what its RPC declares (`millrace/types/v1/access.proto`), for the names in its request.

Nothing here knows a service or a field by name: the option and the descriptors say all. What is not ours is in `FOREIGN`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from google.api import field_behavior_pb2
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.message import Message

from millrace import errors
from millrace.server import names
from millrace.server.rights import Rights
from millrace.types.v1 import access_pb2 as pb

DEFAULT_NAMESPACE = "default"
_REFLECTION = (f"grpc.reflection.{version}.ServerReflection" for version in ("v1", "v1alpha"))
FOREIGN = frozenset({*_REFLECTION, "grpc.channelz.v1.Channelz"})
"""Services of gRPC itself that everybody with a token may call: they name no resource."""

_FULL = re.compile(r"namespaces/([a-z][a-z0-9_]{0,62})(?:/([a-z][a-z0-9_]*)(?:/(.+))?)?")
_BARE = re.compile(r"[a-z][a-z0-9_]{0,62}(?:\$[a-z_]+)?")


@dataclass(frozen=True, slots=True)
class Need:
    any_of: frozenset[str]
    path: tuple[str, ...]
    """Fields from the request to the name; empty: everywhere."""
    by_servicer: bool = False
    by_callee: bool = False


@dataclass(frozen=True, slots=True)
class Access:
    """What one RPC declares. `declared` False: nothing, so nobody may call it. `changes`: it has side effects."""

    needs: tuple[Need, ...] = ()
    signed_in: bool = False
    services_only: bool = False
    declared: bool = True
    changes: bool = False

    @property
    def named(self) -> tuple[Need, ...]:
        return tuple(need for need in self.needs if need.path and not need.by_servicer and not need.by_callee)

    @property
    def later(self) -> Need | None:
        """The need that the servicer checks (`settle`), where there is one."""
        return next((need for need in self.needs if need.by_servicer), None)


@dataclass(frozen=True, slots=True)
class Named:
    """What a request names: `resource` as it says it in full, `table` without `$dead_letters`, empty for everything that is no table."""

    resource: str
    namespace: str
    table: str = ""


@dataclass(slots=True)
class Gate:
    """One call's rights. `named`: what its request named so far, for the audit; `open` False: the servicer has a name still to check."""

    who: str
    rights: Rights
    access: Access
    metadata: Mapping[str, str]
    method: str = ""
    trusted: bool = False
    """A service: the mesh says what it may call."""
    named: list[str] = field(default_factory=list)
    open: bool = True

    def admit(self) -> None:
        """Before anything is read. Raises NotAllowed."""
        access = self.access
        if self.trusted and access.declared:
            return
        if not access.declared:
            raise errors.NotAllowed(f"{self.method} declares no access: nobody may call it", hint="report this")
        if access.services_only and not self.rights.admin_everywhere:
            raise errors.NotAllowed(
                f"`{self.who}` may not do this: only services and admins of every namespace may",
                hint="use the RPC of the service that owns the resource, for instance PutSource",
                metadata={"role": "admin", "resource": "*", "principal": self.who},
            )
        for need in access.needs:
            if not need.path and not self.rights.allow(need.any_of, ""):
                raise self._refusal(need, "*")

    def check(self, message: Message) -> None:
        """A request, or a frame of a stream. Raises NotAllowed, and FieldInvalid for a name that is none."""
        for need in self.access.needs:
            if need.by_servicer and _is_there(message, need.path):
                self.open = False
        found: list[Named] = []
        for need in self.access.named:
            named = self._of(message, need, found)
            if named is None:
                continue
            found.append(named)
            self._note(named.resource)
            if not self.trusted and not self.rights.allow(need.any_of, named.namespace, named.table):
                raise self._refusal(need, named.resource)
        self._agree([one.resource for one in found])

    def check_frame(self, message: Message) -> None:
        """As `check`, for a stream: the first frame names what the others are about. Raises StreamProtocol too."""
        self.check(message)
        if self.named or self.trusted or not self.access.named:
            return
        first = self.access.named[0].path[0]
        if not _is_there(message, (first,)) and not self.rights.allow(self.access.named[0].any_of, ""):
            raise errors.StreamProtocol(f"the first frame is `{first}`", field=first)

    def _of(self, message: Message, need: Need, found: list[Named]) -> Named | None:
        everywhere = self.trusted or self.rights.allow(need.any_of, "")
        try:
            return named_in(message, need.path, base=found[0].namespace if found else "")
        except errors.FieldInvalid:
            if everywhere:
                return None  # the servicer says it better
            raise

    def settle(self, resource: str) -> None:
        """For servicers: the name that a token stands for. Raises NotAllowed, FieldInvalid."""
        need, named = self.access.later, parse(resource, "", field="")
        self._note(resource)
        if need is not None and not self.trusted and not self.rights.allow(need.any_of, named.namespace, named.table):
            raise self._refusal(need, resource)
        self._agree([resource])
        self.open = True

    def require_open(self) -> None:
        """Before each response. Raises Unexpected when the servicer forgot `settle`: nothing leaves unchecked."""
        if not self.open and not self.trusted:
            raise errors.Unexpected(f"{self.method} answers before it checked what its token names")

    def _agree(self, resources: list[str]) -> None:
        """The mesh and the logs go by the metadata: it names what the body names (contracts.md section 6)."""
        wanted = self.metadata.get(names.RESOURCE)
        if wanted and resources and wanted not in resources:
            raise errors.FieldInvalid(
                f"the metadata {names.RESOURCE} does not name the request's resource",
                hint=f"send the request's own name as {names.RESOURCE}, or leave it out",
            )

    def _note(self, resource: str) -> None:
        if resource not in self.named:
            self.named.append(resource)

    def _refusal(self, need: Need, resource: str) -> errors.NotAllowed:
        roles = " or ".join(sorted(need.any_of))
        where = "in every namespace" if resource == "*" else f"for {resource}"
        return errors.NotAllowed(
            f"`{self.who}` may not call {self.method}: it needs the role {roles} {where}",
            field=".".join(need.path),
            hint=f"call with a token that has it (yours has: {self.rights}), or ask an admin of the namespace for it",
            metadata={"role": roles, "resource": resource, "principal": self.who},
        )


_GATE: ContextVar[Gate | None] = ContextVar("millrace_gate", default=None)


def enter(gate: Gate) -> None:
    """For the auth layer: each RPC runs in a context of its own."""
    _GATE.set(gate)


def settle(resource: str) -> None:
    """For servicers whose request names its resource in a token: checks the caller's right to it. Nothing to do outside of a request."""
    if (gate := _GATE.get()) is not None:
        gate.settle(resource)


# -- names ---------------------------------------------------------------------------------------------------------------
def parse(text: str, base: str, *, field: str) -> Named:
    """A full name (`namespaces/a/tables/t`, `namespaces/a`) or a bare table in the namespace `base`. Raises FieldInvalid."""
    if (full := _FULL.fullmatch(text)) is not None:
        namespace, collection, rest = full.groups()
        table = (rest or "").partition("$")[0] if collection == "tables" else ""
        return Named(text, namespace, table)
    if _BARE.fullmatch(text):
        namespace = base or DEFAULT_NAMESPACE
        return Named(f"namespaces/{namespace}/tables/{text}", namespace, text.partition("$")[0])
    raise errors.FieldInvalid(
        "this is no resource's name", field=field, hint="`namespaces/{namespace}/tables/{table}`, or as the RPC has it"
    )


def named_in(message: Message, path: tuple[str, ...], *, base: str = "") -> Named | None:
    """What the field at `path` names; None where it is not set and required (the fields layer says so) or one of several."""
    if not _is_there(message, path[:-1]):
        return None
    holder: Any = message
    namespace = base
    for step in (*path[:-1], ""):
        if "namespace" in holder.DESCRIPTOR.fields_by_name:
            namespace = holder.namespace or namespace
        holder = getattr(holder, step) if step else holder
    text = getattr(holder, path[-1])
    if path[-1] == "namespace":
        text = f"namespaces/{text or DEFAULT_NAMESPACE}"
    elif path[-1] == "parent" and not text:
        text = f"namespaces/{DEFAULT_NAMESPACE}"
    return parse(text, namespace, field=".".join(path)) if text else None


def _is_there(message: Message, path: tuple[str, ...]) -> bool:
    """Whether every message on the way is set, and a value at its end that is not empty."""
    holder: Any = message
    for step in path:
        described = holder.DESCRIPTOR.fields_by_name[step]
        if described.message_type is not None:
            if not holder.HasField(step):
                return False
            holder = getattr(holder, step)
        else:
            return bool(getattr(holder, step))
    return True


# -- declarations --------------------------------------------------------------------------------------------------------
@cache
def access_of(full_name: str) -> Access:
    """`full_name`: "/millrace.storage.v1.StorageService/AppendRows"."""
    service, _, name = full_name.strip("/").rpartition("/")
    if service in FOREIGN:
        return Access(signed_in=True)
    try:
        found: MethodDescriptor = descriptor_pool.Default().FindServiceByName(service).methods_by_name[name]
    except KeyError:
        return Access(declared=False)
    return declared(found)


def declared(method: MethodDescriptor) -> Access:
    options = method.GetOptions()
    said = options.Extensions[pb.access]
    return Access(
        needs=tuple(map(_need, said.needs)),
        signed_in=said.callers == pb.CALLERS_SIGNED_IN,
        services_only=said.callers == pb.CALLERS_SERVICES,
        declared=bool(said.needs) or said.callers != pb.CALLERS_UNSPECIFIED,
        changes=options.idempotency_level != MethodOptions.NO_SIDE_EFFECTS,
    )


def _need(said: pb.Need) -> Need:
    return Need(
        any_of=frozenset(pb.Role.Name(role).removeprefix("ROLE_").lower() for role in said.any_of),
        path=tuple(said.field.split(".")) if said.field else (),
        by_servicer=said.checked_by == pb.CHECKED_BY_SERVICER,
        by_callee=said.checked_by == pb.CHECKED_BY_CALLEE,
    )


def faults(method: MethodDescriptor) -> Iterator[str]:
    """What is wrong with a method's declaration; for the test that every RPC has one."""
    access = declared(method)
    if not access.declared:
        yield "declares no access: add `option (millrace.types.v1.access)`"
    for need in access.needs:
        if not need.any_of or "unspecified" in need.any_of:
            yield f"`{'.'.join(need.path)}` needs no role"
        holder: Any = method.input_type
        for step in need.path:
            described = None if holder is None else holder.fields_by_name.get(step)
            if described is None:
                yield f"`{'.'.join(need.path)}` is no field of {method.input_type.full_name}"
                break
            if not (step in _WITH_DEFAULT or need.by_callee or need.by_servicer or _is_demanded(described)):
                yield f"`{'.'.join(need.path)}` may be left out, and nothing else says what the call is about"
            holder = described.message_type


_WITH_DEFAULT = ("parent", "namespace")


def _is_demanded(described: FieldDescriptor) -> bool:
    """REQUIRED, or one of a oneof: then another member is set, with a need of its own or as a frame of a stream."""
    behaviour = described.GetOptions().Extensions[field_behavior_pb2.field_behavior]
    return field_behavior_pb2.REQUIRED in behaviour or described.containing_oneof is not None
