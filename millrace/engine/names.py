"""How SQL names a table: `T`, `T$all`, `T$dead_letters`, or one of them behind another namespace."""

from __future__ import annotations

import re
from dataclasses import dataclass

from millrace.errors import FieldInvalid, SqlInvalid

ALL = "$all"
DEAD_LETTERS = "$dead_letters"
DEFAULT_NAMESPACE = "default"
_PART = re.compile(r"[a-z][a-z0-9_]{0,62}")
_FULL = re.compile(r"namespaces/([a-z][a-z0-9_]{0,62})/tables/([a-z][a-z0-9_]{0,62}(?:\$dead_letters)?)")
_UNREACHABLE = frozenset({"main", "information_schema", "pg_catalog", "temp", "system", "memory", "recurring"})


@dataclass(frozen=True, slots=True, order=True)
class TableRef:
    """A table as SQL writes it: `schema` is the namespace, or empty; `name` keeps its suffix. Both in lower case."""

    schema: str
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}" if self.schema else self.name

    @property
    def with_storage_columns(self) -> bool:
        """True for `T$all`: the columns that storage adds are there too."""
        return self.name.endswith(ALL)

    def full_name(self, namespace: str) -> str:
        """`namespaces/{namespace}/tables/{table}`; `namespace` is what a bare name means. Raises SqlInvalid."""
        if self.schema in _UNREACHABLE:
            raise SqlInvalid(f"`{self}`: the schema `{self.schema}` is not a namespace that SQL can name")
        table = self.name.removesuffix(ALL)
        full = f"namespaces/{self.schema or namespace or DEFAULT_NAMESPACE}/tables/{table}"
        if not _FULL.fullmatch(full):
            raise SqlInvalid(f"`{self}` is not a table: names match [a-z][a-z0-9_]{{0,62}}")
        return full


def check_namespace(namespace: str) -> str:
    """`namespace`, or `default` for an empty one. Raises FieldInvalid."""
    if not namespace:
        return DEFAULT_NAMESPACE
    if not _PART.fullmatch(namespace):
        raise FieldInvalid("a namespace matches [a-z][a-z0-9_]{0,62}", field="namespace")
    return namespace


def full_name(table: str, namespace: str, *, field: str) -> str:
    """A table's full name from a full or bare one. Raises FieldInvalid at `field`."""
    full = table if "/" in table else f"namespaces/{namespace or DEFAULT_NAMESPACE}/tables/{table}"
    if not _FULL.fullmatch(full):
        raise FieldInvalid("expected `namespaces/{namespace}/tables/{table}` or a bare table name", field=field)
    return full


def bare_name(full: str) -> str:
    """The last segment of a full name."""
    return full.rsplit("/", 1)[1]
