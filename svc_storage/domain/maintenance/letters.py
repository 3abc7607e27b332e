"""Does a dead letter hold a row that a predicate names? Its raw text is all there is: a JSON object, or a line of CSV.

A JSON object is judged by its keys, a line by its place when it has as many cells as the table has columns. A column whose value is not
of the table's type is compared as text with the text of the values asked for: a price of `abc` must not hide whose row it is.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from svc_storage.domain.reading.filtering import evaluate
from svc_storage.domain.reading.predicates import And, Compare, In, IsNull, Literal, Not, Op, Or, Predicate, columns_of


class Judge:
    """Of one erasure."""

    def __init__(self, predicate: Predicate, schema: pa.Schema, *, unjudged_too: bool) -> None:
        self._predicate, self._unjudged_too = predicate, unjudged_too
        self._names = tuple(schema.names)
        self._kinds = {name: schema.field(name).type for name in dict.fromkeys(columns_of(predicate))}

    def keeper(self) -> Keeper:
        return Keeper(self)

    def verdict(self, raw: bytes | None) -> bool | None:
        """True: it goes. None: its text shows too little."""
        cells = self._cells(raw or b"")
        if cells is None or any(name not in cells for name in self._kinds):
            return True if self._unjudged_too else None
        typed = {name: _Cell(cells[name], kind) for name, kind in self._kinds.items()}
        held = _holds(self._predicate, typed)
        if held is None and all(cell.typed() is not None for cell in typed.values()):
            return False  # unknown as SQL has it, not for want of text
        return True if held is None and self._unjudged_too else held

    def _cells(self, raw: bytes) -> Mapping[str, Any] | None:
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            return None
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if isinstance(found, dict):
            return found
        return self._line(text)

    def _line(self, text: str) -> Mapping[str, Any] | None:
        for delimiter in (",", ";", "\t", "|"):
            try:
                cells = next(csv.reader([text.rstrip("\r\n")], delimiter=delimiter, strict=True), [])
            except csv.Error:
                continue
            if len(cells) == len(self._names):
                return dict(zip(self._names, cells, strict=True))
        return None


class Keeper:
    """The letters of a batch that stay; counts those that could not be judged, which stay."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self.unjudged = 0

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        verdicts = [self._judge.verdict(raw) for raw in batch.column("raw").to_pylist()]
        self.unjudged += sum(verdict is None for verdict in verdicts)
        return batch.filter(pa.array([not verdict for verdict in verdicts], pa.bool_()))


@dataclass(frozen=True, slots=True)
class _Cell:
    """A cell of a letter, and the type that its column should have."""

    value: Any
    kind: pa.DataType

    def typed(self) -> pa.Array | None:
        """As an array of one; None when the text is none of that type."""
        if self.value is None or (self.value == "" and not pa.types.is_string(self.kind)):
            return pa.nulls(1, self.kind)
        try:
            if isinstance(self.value, str):
                return pa.array([self.value.strip()]).cast(self.kind)
            return pa.array([self.value], self.kind)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError, ValueError, TypeError):
            return None

    def text(self) -> str:
        return self.value.strip() if isinstance(self.value, str) else json.dumps(self.value, default=str)


def _holds(node: Predicate, cells: Mapping[str, _Cell]) -> bool | None:
    """Kleene's logic: None is unknown."""
    match node:
        case And(operands):
            return _all([_holds(one, cells) for one in operands])
        case Or(operands):
            found = _all([_inverse(_holds(one, cells)) for one in operands])
            return _inverse(found)
        case Not(operand):
            return _inverse(_holds(operand, cells))
        case Compare(column) | In(column) | IsNull(column):
            return _atom(node, column, cells[column])


def _atom(node: Compare | In | IsNull, column: str, cell: _Cell) -> bool | None:
    typed = cell.typed()
    if typed is not None:
        found = evaluate(node, pa.RecordBatch.from_arrays([typed], [column]))[0].as_py()
        return found if found is None else bool(found)
    match node:
        case IsNull():
            return False
        case In(_, values):
            return cell.text() in _texts(values)
        case Compare(_, op, value) if op in (Op.EQ, Op.NE):
            return (cell.text() in _texts([value])) is (op is Op.EQ)
    return None


def _texts(values: Sequence[Literal]) -> set[str]:
    return {str(value) for value in values}


def _all(found: Sequence[bool | None]) -> bool | None:
    if any(one is False for one in found):
        return False
    return None if any(one is None for one in found) else True


def _inverse(value: bool | None) -> bool | None:
    return None if value is None else not value
