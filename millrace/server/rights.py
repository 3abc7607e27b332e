"""What somebody may do, and where: roles per scope. A scope is `*`, a namespace `a`, or one table `a.flights`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

EVERYWHERE = "*"
INCLUDED = {
    "reader": frozenset({"reader"}),
    "writer": frozenset({"writer", "reader"}),
    "operator": frozenset({"operator", "reader"}),
    "admin": frozenset({"admin", "operator", "writer", "reader"}),
}
"""Role -> the roles that it stands for. docs/explanation/rights.md says what each may."""

_NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Rights:
    """Immutable. `by_scope` holds every role that is included, too."""

    by_scope: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def allow(self, any_of: Collection[str], namespace: str, table: str = "") -> bool:
        """Whether one of the roles is held for the table, its namespace, or everywhere. An empty `namespace`: everywhere alone."""
        return any(not self.by_scope.get(scope, _NOTHING).isdisjoint(any_of) for scope in _scopes(namespace, table))

    @property
    def admin_everywhere(self) -> bool:
        return "admin" in self.by_scope.get(EVERYWHERE, _NOTHING)

    def __str__(self) -> str:
        """`a=writer, b.flights=reader`: the highest roles of each scope; "none"."""
        said = (f"{scope}={'+'.join(_highest(roles))}" for scope, roles in sorted(self.by_scope.items()) if roles)
        return ", ".join(said) or "none"

    @classmethod
    def of(cls, grants: object) -> Self:
        """From what tokens and files say: {"a": "reader", "b": ["writer", "operator"]} or ["a=reader", "b:writer"]. What is neither, and
        roles that do not exist, give nothing: the file may be of a newer release, and guessing is no right."""
        found: dict[str, frozenset[str]] = {}
        for scope, role in _pairs(grants):
            found[scope] = found.get(scope, _NOTHING) | INCLUDED.get(role, _NOTHING)
        return cls({scope: roles for scope, roles in found.items() if roles})


NO_RIGHTS = Rights()
ALL_RIGHTS = Rights({EVERYWHERE: INCLUDED["admin"]})


def _scopes(namespace: str, table: str) -> Iterable[str]:
    yield EVERYWHERE
    if namespace:
        yield namespace
        if table:
            yield f"{namespace}.{table}"


def _pairs(grants: object) -> Iterable[tuple[str, str]]:
    if isinstance(grants, Mapping):
        for scope, roles in grants.items():
            for role in [roles] if isinstance(roles, str) else roles if isinstance(roles, list) else []:
                yield str(scope), str(role)
    elif isinstance(grants, list):
        for one in grants:
            scope, _, role = str(one).replace(":", "=", 1).partition("=")
            yield scope, role


def _highest(roles: frozenset[str]) -> list[str]:
    """Without those that another one of them includes."""
    return [role for role in sorted(roles) if not any(role in INCLUDED[other] for other in roles - {role})]
