"""Which column of a file goes to which column of the table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import pyarrow as pa

from millrace.errors import SchemaMismatch

_OTHER = re.compile(r"[^a-z0-9_]")


@dataclass(frozen=True, slots=True)
class Naming:
    """`rename`: a column of the file, as written or normalised -> a column of the table."""

    rename: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    ignore_extra: bool = False

    def target(self, name: str) -> str:
        plain = normalised(name)
        return self.rename.get(name, self.rename.get(plain, plain))


def normalised(name: str) -> str:
    """Lower-cased, everything but letters, digits and `_` replaced by `_`."""
    return _OTHER.sub("_", name.strip().lower())


@dataclass(frozen=True, slots=True)
class Plan:
    """For each column of the file, the index of the table's column, or None for one that is left out. `width`: columns of the file."""

    targets: tuple[int | None, ...]
    schema: pa.Schema

    @property
    def width(self) -> int:
        return len(self.targets)

    @property
    def sources(self) -> dict[int, int]:
        """The table's column -> the file's."""
        return {target: index for index, target in enumerate(self.targets) if target is not None}


def plan_for(names: Sequence[str], naming: Naming, schema: pa.Schema, *, where: str) -> Plan:
    """Matches a file's columns with the table's. `where` names the file in messages.

    Raises SchemaMismatch: two columns for one, one that the table lacks, a NOT NULL column that the file lacks."""
    targets = [naming.target(name) for name in names]
    twice = sorted({name for name in targets if targets.count(name) > 1 and name in schema.names})
    if twice or len(set(names)) != len(names):
        name = twice[0] if twice else next(one for one in names if list(names).count(one) > 1)
        raise SchemaMismatch(
            f"{where}: the column `{name[:64]}` is there twice", field=name[:64], hint="rename one of them"
        )
    extra = [name for name in targets if name not in schema.names]
    if extra and not naming.ignore_extra:
        shown = ", ".join(f"`{name[:64]}`" for name in extra[:10])
        raise SchemaMismatch(
            f"{where}: the table has no column {shown}",
            field=extra[0][:64],
            hint="add it to the table, set `csv.rename`, or `csv.ignore_extra_columns` to leave it out",
        )
    lacking = [column.name for column in schema if not column.nullable and column.name not in targets]
    if lacking:
        raise SchemaMismatch(f"{where}: the column `{lacking[0]}` is missing and may not be NULL", field=lacking[0])
    return Plan(tuple(schema.get_field_index(name) if name in schema.names else None for name in targets), schema)
