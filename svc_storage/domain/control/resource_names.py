"""Full names of resources, the collections there are, and what a missing one is called."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from millrace.errors import (
    DashboardNotFound,
    FieldInvalid,
    Missing,
    ResourceNotFound,
    RunNotFound,
    SourceNotFound,
    TransformNotFound,
)

COLLECTIONS: Mapping[str, type[Missing]] = MappingProxyType(
    {
        "sources": SourceNotFound,
        "transforms": TransformNotFound,
        "dashboards": DashboardNotFound,
        "runs": RunNotFound,
        "readers": ResourceNotFound,
        "pipelines": ResourceNotFound,
        "subscriptions": ResourceNotFound,
    }
)
MAX_ID = 128
_NAMESPACE = re.compile(r"[a-z][a-z0-9_]{0,62}")
_ID = re.compile(r"[A-Za-z0-9._/-]{1,128}")
_IDS_BY_NAME = frozenset({"sources", "transforms", "dashboards", "pipelines", "subscriptions"})


@dataclass(frozen=True, slots=True)
class Selection:
    """Resources by place. `namespace` "": all. `id` "": all of the collection."""

    collection: str
    namespace: str = ""
    id: str = ""

    def holds(self, name: str) -> bool:
        _, namespace, collection, own = name.split("/", 3)
        return collection == self.collection and self.namespace in ("", namespace) and self.id in ("", own)


def check_name(name: str, *, field: str = "name") -> None:
    """Raises FieldInvalid, saying what a name looks like."""
    parts = name.split("/", 3)
    if len(parts) != 4 or parts[0] != "namespaces" or not _NAMESPACE.fullmatch(parts[1]) or not parts[3]:
        raise FieldInvalid("a resource's name is `namespaces/{namespace}/{collection}/{id}`", field=field)
    _check_collection(parts[2], field)
    pattern = _NAMESPACE if parts[2] in _IDS_BY_NAME else _ID
    if not pattern.fullmatch(parts[3]) or any(part in ("", ".", "..") for part in parts[3].split("/")):
        raise FieldInvalid(f"the id of a resource in {parts[2]} matches {pattern.pattern}", field=field)


def parse_parent(parent: str, *, field: str = "parent") -> Selection:
    """`namespaces/{namespace}/{collection}`, where `-` means all namespaces."""
    parts = parent.split("/")
    if len(parts) != 3 or parts[0] != "namespaces" or not (parts[1] == "-" or _NAMESPACE.fullmatch(parts[1])):
        raise FieldInvalid("give `namespaces/{namespace}/{collection}`; `-` stands for all namespaces", field=field)
    _check_collection(parts[2], field)
    return Selection(parts[2], "" if parts[1] == "-" else parts[1])


def parse_selection(text: str, *, field: str) -> Selection:
    """A parent, or a full name."""
    if text.count("/") < 3:
        return parse_parent(text, field=field)
    check_name(text, field=field)
    _, namespace, collection, own = text.split("/", 3)
    return Selection(collection, namespace, own)


def missing(name: str) -> Missing:
    collection = name.split("/", 3)[2]
    return COLLECTIONS[collection](
        f"`{name}` does not exist", field="name", hint=f"list {collection} to see what there is"
    )


def _check_collection(collection: str, field: str) -> None:
    if collection not in COLLECTIONS:
        raise FieldInvalid(f"the collections are {', '.join(COLLECTIONS)}", field=field)
