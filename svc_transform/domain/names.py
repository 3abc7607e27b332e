"""Full names of tables."""

from __future__ import annotations

import re

from millrace.errors import FieldInvalid

_TABLE = re.compile(r"namespaces/[a-z][a-z0-9_]{0,62}/tables/[a-z][a-z0-9_]{0,62}")


def table_name(text: str, namespace: str, *, field: str) -> str:
    """A table's full name from a full or bare one. Raises FieldInvalid at `field`."""
    full = text if "/" in text else f"namespaces/{namespace}/tables/{text}"
    if not _TABLE.fullmatch(full):
        raise FieldInvalid(
            "a table is `namespaces/{namespace}/tables/{table}`, names [a-z][a-z0-9_]{0,62}", field=field
        )
    return full
