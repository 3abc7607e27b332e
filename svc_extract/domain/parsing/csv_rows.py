"""Records of CSV to rows of a table: fast where all is well, exact about which record is not."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.csv

from svc_extract.domain.parsing.casting import cast_text
from svc_extract.domain.parsing.columns import Plan
from svc_extract.domain.parsing.parsed import Parsed, letters_of
from svc_extract.domain.parsing.records import Dialect

Bad = dict[int, tuple[str, str]]


@dataclass(frozen=True, slots=True)
class CsvRows:
    """`nulls`: unquoted texts that are NULL (quoted ones too, except in text columns)."""

    dialect: Dialect
    plan: Plan
    nulls: Collection[str]

    def parse(self, records: Sequence[bytes], known_bad: dict[int, str], raws: Sequence[bytes] = ()) -> Parsed:
        """`records`: UTF-8 without line breaks. `known_bad`: those that are none, with the reason. `raws`: what dead letters keep."""
        bad: Bad = {index: (reason, "") for index, reason in known_bad.items()}
        good = [index for index in range(len(records)) if index not in bad]
        texts, lost = self._texts([records[index] for index in good])
        for place, reason in lost.items():
            bad[good[place]] = (reason, "")
        kept = [index for place, index in enumerate(good) if place not in lost]
        columns, wrong = self._columns(texts)
        for place, field in wrong.items():
            bad[kept[place]] = ("TYPE", field)
        rows = pa.RecordBatch.from_arrays(columns, schema=self.plan.schema)
        if wrong:
            keep = np.ones(len(kept), np.bool_)
            keep[list(wrong)] = False
            rows = rows.filter(pa.array(keep))
        return Parsed(rows, letters_of(bad, raws or records))

    # -- fields --------------------------------------------------------------------------------------------------------
    def _texts(self, records: Sequence[bytes]) -> tuple[pa.Table, dict[int, str]]:
        """The table's columns as text, and which of `records` are none; these have no row."""
        invalid: dict[int, str] = {}
        decoded = _decodable(records, invalid)
        kept = [index for index in range(len(records)) if index not in invalid]
        parts: list[pa.Table] = []
        lost: dict[int, str] = {}
        self._read(decoded, 0, parts, lost)
        invalid.update({kept[place]: reason for place, reason in lost.items()})
        return pa.concat_tables(parts) if parts else self._empty(), invalid

    def _read(self, records: Sequence[bytes], first: int, parts: list[pa.Table], lost: dict[int, str]) -> None:
        """Reads all at once, or in halves where Arrow sees other records than we do."""
        if not records:
            return
        try:
            table, wrong = self._read_csv(b"\n".join(records))
        except pa.ArrowException:
            table, wrong = None, []
        if table is not None and table.num_rows + len(wrong) == len(records):
            parts.append(table)
            lost.update({first + number: "FIELD_COUNT" for number in wrong})
        elif len(records) == 1:
            lost[first] = "UNPARSEABLE"
        else:
            half = len(records) // 2
            self._read(records[:half], first, parts, lost)
            self._read(records[half:], first + half, parts, lost)

    def _read_csv(self, data: bytes) -> tuple[pa.Table, list[int]]:
        wrong: list[int] = []

        def skip(row: pa.csv.InvalidRow) -> str:
            wrong.append(row.number - 1)
            return "skip"

        names = self._names()
        table = pa.csv.read_csv(
            pa.py_buffer(data),
            read_options=pa.csv.ReadOptions(use_threads=False, column_names=names, block_size=max(len(data), 1) + 1),
            parse_options=pa.csv.ParseOptions(
                delimiter=self.dialect.delimiter,
                quote_char=self.dialect.quote,
                newlines_in_values=True,
                invalid_row_handler=skip,
            ),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                include_columns=self._included(),
                null_values=list(self.nulls),
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                check_utf8=False,
            ),
        )
        return table.combine_chunks(), wrong

    def _names(self) -> list[str]:
        return [f"c{index}" for index in range(self.plan.width)]

    def _included(self) -> list[str]:
        # One column at least, or Arrow could not tell how many rows there are.
        return [f"c{index}" for index in sorted(self.plan.sources.values())] or ["c0"]

    def _empty(self) -> pa.Table:
        names = self._included()
        return pa.table({name: pa.array([], pa.string()) for name in names})

    # -- types ---------------------------------------------------------------------------------------------------------
    def _columns(self, texts: pa.Table) -> tuple[list[pa.Array], dict[int, str]]:
        """Typed columns in the table's order, and the first bad column of each row that has one."""
        wrong: dict[int, str] = {}
        sources = self.plan.sources
        columns: list[pa.Array] = []
        for target, field in enumerate(self.plan.schema):
            if target not in sources:
                columns.append(pa.nulls(texts.num_rows, field.type))
                continue
            chunks = texts.column(f"c{sources[target]}").combine_chunks()
            array = chunks if isinstance(chunks, pa.Array) else pa.concat_arrays(chunks.chunks)
            column, bad = cast_text(array, field.type, nulls=self.nulls)
            for index in bad.tolist():
                wrong.setdefault(index, field.name)
            columns.append(column)
        return columns, wrong


def _decodable(records: Sequence[bytes], invalid: dict[int, str]) -> Sequence[bytes]:
    """`records` without those that are not UTF-8, which go to `invalid`."""
    if is_utf8(b"\n".join(records)):
        return records
    for index, record in enumerate(records):
        if not is_utf8(record):
            invalid[index] = "ENCODING"
    return [record for index, record in enumerate(records) if index not in invalid]


def is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
