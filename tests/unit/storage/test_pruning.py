from __future__ import annotations

import pyarrow as pa
from hypothesis import example, given, settings

from svc_storage.domain.reading.bounds import bounds_of
from svc_storage.domain.reading.filtering import matching
from svc_storage.domain.reading.predicates import And, Compare, In, IsNull, Not, Op, Or, Predicate, bind
from svc_storage.domain.reading.pruning import ColumnBounds, FileBounds, may_match
from svc_storage.domain.reading.statistics import StatisticsBuilder
from svc_storage.ports import DataFile
from tests.unit.storage.strategies import SCHEMA, batches, predicates

COLUMNS = frozenset(SCHEMA.names)


def file_of(batch: pa.RecordBatch) -> DataFile:
    builder = StatisticsBuilder(SCHEMA)
    builder.add(batch)
    return DataFile("f", 1, batch.num_rows, stats_json=builder.to_json())


def _with(**column: list[object]) -> pa.RecordBatch:
    (rows,) = {len(values) for values in column.values()}
    return pa.RecordBatch.from_arrays(
        [pa.array(column.get(field.name, [None] * rows), field.type) for field in SCHEMA], schema=SCHEMA
    )


@settings(max_examples=300)
@given(batches(), predicates)
@example(_with(number=[1.0, float("nan")]), Compare("number", Op.GT, 5.0))
@example(_with(number=[1.0, float("inf")]), Compare("number", Op.GT, 5.0))
@example(_with(number=[None, 1.0]), Not(Compare("number", Op.EQ, 1.0)))
@example(_with(text=["", "a"]), Compare("text", Op.LT, "a"))
@example(_with(text=["z" * 70]), Compare("text", Op.GT, "y"))
def test_a_file_with_a_matching_row_is_never_left_out(batch: pa.RecordBatch, predicate: Predicate) -> None:
    bound = bind(predicate, SCHEMA)
    if matching(batch, bound).num_rows:
        assert may_match(bound, bounds_of(file_of(batch), SCHEMA, COLUMNS))


def test_it_leaves_out_what_cannot_match() -> None:
    bounds = FileBounds(10, {"whole": ColumnBounds(5, 9, 0), "text": ColumnBounds("a", "b", 10)})
    for predicate in (
        Compare("whole", Op.GT, 9),
        Compare("whole", Op.LT, 5),
        Compare("whole", Op.EQ, 4),
        In("whole", (1, 2, 10)),
        IsNull("whole"),
        Not(Compare("whole", Op.GE, 5)),
        Not(IsNull("text")),
        Compare("text", Op.EQ, "a"),
        Not(Compare("text", Op.EQ, "a")),
        And((Compare("whole", Op.GE, 5), Compare("whole", Op.GT, 9))),
        Or((Compare("whole", Op.GT, 9), Compare("whole", Op.LT, 5))),
        Or(()),
    ):
        assert not may_match(predicate, bounds), predicate
    for predicate in (
        Compare("whole", Op.GE, 9),
        Not(Compare("whole", Op.GT, 8)),
        IsNull("text"),
        Compare("unknown", Op.EQ, 1),
        And(()),
    ):
        assert may_match(predicate, bounds), predicate


def test_foreign_statistics_are_read_with_care() -> None:
    stats = '{"numRecords":2,"minValues":{"at":"2000-01-01T00:00:00.000Z","money":1.1,"whole":"x","flag":true},'
    stats += '"maxValues":{"at":"2000-01-01T00:00:00.001Z","money":1.3,"whole":"y","flag":true},"nullCount":{"at":0}}'
    bounds = bounds_of(DataFile("f", 1, 2, stats_json=stats), SCHEMA, COLUMNS)
    high = bounds.columns["at"].high
    assert high is not None
    assert high.isoformat() == "2000-01-01T00:00:00.002000+00:00"  # cut to milliseconds by others
    assert bounds.columns["money"].low is None  # a JSON number went through a double
    assert bounds.columns["whole"].low is None
    assert bounds_of(DataFile("f", 1, 2, stats_json="nonsense"), SCHEMA, COLUMNS).columns == {}
