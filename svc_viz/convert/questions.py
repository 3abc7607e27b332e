"""Questions and conditions as analysis takes them."""

from __future__ import annotations

from millrace.analysis.v1 import query_pb2 as pb
from millrace.types.v1 import types_pb2
from millrace.wire.values import value_to_proto
from svc_viz.ports import AllOf, Compare, Condition, Dimension, IsNull, Measure, OneOf, Question

OPS = {
    "=": types_pb2.COMPARE_OP_EQ,
    "<>": types_pb2.COMPARE_OP_NE,
    "<": types_pb2.COMPARE_OP_LT,
    "<=": types_pb2.COMPARE_OP_LE,
    ">": types_pb2.COMPARE_OP_GT,
    ">=": types_pb2.COMPARE_OP_GE,
}
UNITS = {"s": pb.TIME_UNIT_SECOND, "m": pb.TIME_UNIT_MINUTE, "h": pb.TIME_UNIT_HOUR, "d": pb.TIME_UNIT_DAY}
PARTS = {
    "hour": pb.TIME_PART_KIND_HOUR_OF_DAY,
    "weekday": pb.TIME_PART_KIND_DAY_OF_WEEK,
    "month": pb.TIME_PART_KIND_MONTH,
}
AGGREGATES = {
    "count": pb.AGGREGATE_COUNT,
    "distinct": pb.AGGREGATE_COUNT_DISTINCT,
    "sum": pb.AGGREGATE_SUM,
    "avg": pb.AGGREGATE_AVG,
    "min": pb.AGGREGATE_MIN,
    "max": pb.AGGREGATE_MAX,
    "quantile": pb.AGGREGATE_QUANTILE,
    "stddev": pb.AGGREGATE_STDDEV,
    "share": pb.AGGREGATE_SHARE,
}
FILLS = {"": pb.FILL_UNSPECIFIED, "zero": pb.FILL_ZERO, "gap": pb.FILL_GAP, "last": pb.FILL_LAST}


def spec_of(question: Question) -> pb.QuerySpec:
    """The whole question; `where` and times only when they are set."""
    spec = pb.QuerySpec(
        table=question.table,
        dimensions=[dimension_of(one) for one in question.dimensions],
        measures=[measure_of(one) for one in question.measures],
        time_column=question.time_column,
        last_seconds=question.last_s,
        fill=FILLS[question.fill],
        order=[pb.OrderBy(column=column, descending=descending) for column, descending in question.order],
        limit=question.limit,
        previous_period=question.previous,
    )
    if question.where is not None:
        spec.where.CopyFrom(predicate_of(question.where))
    if question.start is not None:
        spec.time_range.start.FromDatetime(question.start)
    if question.end is not None:
        spec.time_range.end.FromDatetime(question.end)
    return spec


def dimension_of(one: Dimension) -> pb.Dimension:
    match one.kind:
        case "bucket":
            bucket = pb.TimeBucket(column=one.column, unit=UNITS[one.unit], count=one.count, zone=one.zone)
            return pb.Dimension(name=one.name, bucket=bucket)
        case "bin":
            cut = pb.Bin(column=one.column, width=one.width, clamp_low=one.low, clamp_high=one.high)
            return pb.Dimension(name=one.name, bin=cut)
        case "part":
            return pb.Dimension(name=one.name, part=pb.TimePart(column=one.column, part=PARTS[one.part], zone=one.zone))
    return pb.Dimension(name=one.name, column=one.column)


def measure_of(one: Measure) -> pb.Measure:
    measure = pb.Measure(name=one.name, aggregate=AGGREGATES[one.aggregate], column=one.column, quantile=one.quantile)
    if one.where is not None:
        measure.where.CopyFrom(predicate_of(one.where))
    return measure


def predicate_of(one: Condition) -> types_pb2.Predicate:
    """Values travel as values, never as text."""
    match one:
        case AllOf(parts):
            return types_pb2.Predicate(
                all_of=types_pb2.PredicateList(predicates=[predicate_of(part) for part in parts])
            )
        case OneOf(column, values):
            member = types_pb2.Membership(column=column, values=[value_to_proto(value) for value in values])
            return types_pb2.Predicate(one_of=member)
        case IsNull(column, negated):
            found = types_pb2.Predicate(is_null=column)
            return types_pb2.Predicate(negation=found) if negated else found
        case Compare(column, op, value):
            compare = types_pb2.Comparison(column=column, op=OPS[op], value=value_to_proto(value))
            return types_pb2.Predicate(compare=compare)
