"""A transform's wish, and the names and numbers that its runs share."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What PutTransform stored. `generation` rises with each change, `uid` differs for each creation."""

    name: str
    uid: str
    generation: int
    sql: str
    output: str
    driving_table: str = ""
    event_time_column: str = ""
    fail_on_bad_row: bool = False
    max_delay_ms: int = 200
    paused: bool = False
    owner: str = ""

    @property
    def namespace(self) -> str:
        return self.name.split("/")[1]

    @property
    def short_name(self) -> str:
        return self.name.rsplit("/", 1)[1]

    @property
    def lease(self) -> str:
        """Lease and writer of the output: `transforms/<namespace>/<name>`."""
        return f"transforms/{self.namespace}/{self.short_name}"

    @property
    def fingerprint(self) -> str:
        """Changes where the output would: another SELECT, another driving table."""
        return hashlib.sha256(json.dumps([self.sql, self.driving_table]).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Incrementality:
    """Whether new rows of the driving table alone make the new rows of the output; if not, why (a word) and where (a sentence)."""

    append_safe: bool
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class InputTable:
    """One input as it stands: `version` is its newest."""

    name: str
    uid: str
    version: int
