"""IAM documents, wherever they stand among a resource's properties."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any


def statements(props: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for document in documents(props):
        said = document["Statement"]
        yield from said if isinstance(said, list) else [said]


def documents(value: Any) -> Iterator[Mapping[str, Any]]:
    """Documents are texts of JSON with a `Statement`."""
    if isinstance(value, str):
        if value.lstrip().startswith("{") and '"Statement"' in value:
            yield json.loads(value)
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from documents(one)
    elif isinstance(value, list):
        for one in value:
            yield from documents(one)


def allowed(props: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """What a Deny says may be as wide as it likes."""
    return (one for one in statements(props) if one.get("Effect") == "Allow")


def many(value: Any) -> list[Any]:
    """IAM writes one or a list of one alike."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def wide(statement: Mapping[str, Any]) -> Iterator[str]:
    """What a statement allows without saying it."""
    for action in many(statement.get("Action")):
        if "*" in action:
            yield f"the action `{action}`"
    if "*" in many(statement.get("Resource")):
        yield "the resource `*`"
    for inverse in ("NotAction", "NotResource", "NotPrincipal"):
        if inverse in statement:
            yield f"`{inverse}`: everything else"


def public(statement: Mapping[str, Any]) -> bool:
    principal = statement.get("Principal")
    named = many(principal.get("AWS")) if isinstance(principal, Mapping) else many(principal)
    return "*" in named


def loosely_trusts(statement: Mapping[str, Any]) -> str | None:
    """Why a trust in the cluster's tokens is not pinned to one account; None when it is."""
    if "Federated" not in (statement.get("Principal") or {}):
        return None
    equal = (statement.get("Condition") or {}).get("StringEquals") or {}
    for claim in ("sub", "aud"):
        pinned = [value for key, value in equal.items() if key.endswith(f":{claim}")]
        if len(pinned) != 1 or not isinstance(pinned[0], str) or "*" in pinned[0]:
            return f"`{claim}` is not pinned to one value by StringEquals"
    return None
