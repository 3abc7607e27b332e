"""Records of JSON, one object each, to rows of a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from svc_extract.domain.parsing.columns import Naming
from svc_extract.domain.parsing.parsed import Parsed, letters_of
from svc_extract.domain.parsing.values import Number, column_of

_DECODER = json.JSONDecoder(parse_float=Number)


@dataclass(frozen=True, slots=True)
class JsonRows:
    """A key that the table lacks makes its record bad, unless `naming.ignore_extra`; a missing one is NULL."""

    schema: pa.Schema
    naming: Naming

    def parse(self, records: Sequence[bytes], known_bad: dict[int, str], raws: Sequence[bytes] = ()) -> Parsed:
        """`records`: UTF-8, one object each. `known_bad`: those that are none, with the reason. `raws`: what dead letters keep."""
        bad: dict[int, tuple[str, str]] = {index: (reason, "") for index, reason in known_bad.items()}
        targets: dict[str, str] = {}
        kept: list[int] = []
        objects: list[dict[str, Any]] = []
        for index, record in enumerate(records):
            if index in bad:
                continue
            found = self._object(record, targets)
            if isinstance(found, tuple):
                bad[index] = found
            else:
                kept.append(index)
                objects.append(found)
        rows = self._rows(objects, kept, bad)
        return Parsed(rows, letters_of(bad, raws or records))

    def _object(self, record: bytes, targets: dict[str, str]) -> dict[str, Any] | tuple[str, str]:
        """The record by the table's columns, or (reason, field) of why it is none."""
        try:
            found = _DECODER.decode(record.decode())
        except UnicodeDecodeError:
            return "ENCODING", ""
        except (ValueError, RecursionError):
            return "UNPARSEABLE", ""
        if type(found) is not dict:
            return "UNPARSEABLE", ""
        row: dict[str, Any] = {}
        for key, value in found.items():
            target = targets.get(key)
            if target is None:
                target = targets[key] = self._target(key)
            if target:
                row[target] = value
            elif not self.naming.ignore_extra:
                return "FIELD_COUNT", key[:64]
        return row

    def _target(self, key: str) -> str:
        target = self.naming.target(key)
        return target if target in self.schema.names else ""

    def _rows(self, objects: list[dict[str, Any]], kept: list[int], bad: dict[int, tuple[str, str]]) -> pa.RecordBatch:
        columns: list[pa.Array] = []
        wrong: set[int] = set()
        for field in self.schema:
            column, faults = column_of([one.get(field.name) for one in objects], field.type)
            for place in faults.tolist():
                wrong.add(place)
                bad.setdefault(kept[place], ("TYPE", field.name))
            columns.append(column)
        rows = pa.RecordBatch.from_arrays(columns, schema=self.schema)
        if not wrong:
            return rows
        keep = np.ones(len(objects), np.bool_)
        keep[list(wrong)] = False
        return rows.filter(pa.array(keep))
