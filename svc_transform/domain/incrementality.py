"""Is a SELECT append-safe: is its result the union of its results over parts of one table?

Reads DuckDB's own syntax tree (`json_serialize_sql`), so that what is judged is what runs. The judgement errs to the safe side:
what is not known to distribute over a union of the driving table's rows is refused with a reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

from svc_transform.ports import Incrementality

Tree = Mapping[str, Any]
SAFE = Incrementality(True)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What the engine's function names mean. `volatile`: the answer depends on more than the arguments."""

    aggregates: Set[str]
    volatile: Set[str]


def judge(tree: Tree, driving: str, words: Vocabulary) -> Incrementality:
    """Judges the SELECT `tree` (a query node) for the driving table as it is written in the SQL (`flights` or `other.flights`)."""
    if not driving:
        return Incrementality(False, "NO_DRIVING_TABLE", "name the input whose new rows drive it: driving_table")
    if tree.get("type") != "SELECT_NODE":
        return Incrementality(False, "SET_OPERATION", "UNION, INTERSECT and EXCEPT need all rows of every branch")
    return (
        _judge_modifiers(tree)
        or _judge_groups(tree, words.aggregates)
        or _judge_functions(tree, words.volatile)
        or _judge_places(tree, driving)
        or SAFE
    )


def _judge_modifiers(tree: Tree) -> Incrementality | None:
    for modifier in tree.get("modifiers", ()):
        if modifier["type"] == "DISTINCT_MODIFIER":
            return Incrementality(False, "DISTINCT", "DISTINCT compares each row with all others")
        if modifier["type"] in ("LIMIT_MODIFIER", "LIMIT_PERCENT_MODIFIER"):
            return Incrementality(False, "ORDER_LIMIT", "LIMIT counts over all rows")
    if tree.get("sample"):
        return Incrementality(False, "VOLATILE_FUNCTION", "a sample differs from run to run")
    return None


def _judge_groups(tree: Tree, aggregates: Set[str]) -> Incrementality | None:
    if tree.get("group_expressions") or tree.get("having"):
        return Incrementality(False, "AGGREGATE", "GROUP BY needs all rows of a group")
    if tree.get("qualify"):
        return Incrementality(False, "WINDOW", "QUALIFY looks at other rows")
    for expression in tree.get("select_list", ()):
        for node in _own_expressions(expression):
            if node.get("class") == "WINDOW":
                return Incrementality(False, "WINDOW", f"`{node.get('function_name')}` looks at other rows")
            if node.get("class") == "FUNCTION" and node.get("function_name") in aggregates:
                return Incrementality(False, "AGGREGATE", f"`{node['function_name']}` needs all rows")
    return None


def _judge_functions(tree: Tree, volatile: Set[str]) -> Incrementality | None:
    for node in _nodes(tree):
        if node.get("class") == "FUNCTION" and node.get("function_name") in volatile:
            return Incrementality(False, "VOLATILE_FUNCTION", f"`{node['function_name']}` differs from run to run")
    return None


def _judge_places(tree: Tree, driving: str) -> Incrementality | None:
    everywhere = sum(1 for node in _nodes(tree) if _is_table(node, driving))
    if everywhere == 0:
        return Incrementality(False, "NO_DRIVING_TABLE", f"the SELECT does not read `{driving}`")
    found, outer = _in_from(tree.get("from_table") or {}, driving)
    if found != everywhere:
        return Incrementality(False, "SUBQUERY_OVER_DRIVING_TABLE", f"a subquery reads `{driving}` as a whole")
    if found > 1:
        return Incrementality(False, "SUBQUERY_OVER_DRIVING_TABLE", f"`{driving}` is joined to itself")
    if outer:
        return Incrementality(False, "OUTER_JOIN", f"rows without a partner in `{driving}` change as it grows")
    return None


_KEEPS_LEFT = {"INNER", "LEFT", "SEMI", "ANTI"}
_KEEPS_RIGHT = {"INNER", "RIGHT"}


def _in_from(ref: Tree, driving: str) -> tuple[int, bool]:
    """How often the driving table stands in a FROM clause itself, and whether a join there looks at its absence."""
    if _is_table(ref, driving):
        return 1, False
    if ref.get("type") != "JOIN":
        return 0, False
    left, left_outer = _in_from(ref["left"], driving)
    right, right_outer = _in_from(ref["right"], driving)
    kind = ref.get("join_type", "INNER")
    natural = ref.get("ref_type", "REGULAR") in ("REGULAR", "CROSS", "NATURAL")
    outer = (left > 0 and kind not in _KEEPS_LEFT) or (right > 0 and kind not in _KEEPS_RIGHT) or not natural
    return left + right, left_outer or right_outer or (outer and left + right > 0)


def _is_table(node: Tree, driving: str) -> bool:
    if node.get("type") != "BASE_TABLE":
        return False
    schema, name = node.get("schema_name") or "", node.get("table_name") or ""
    return driving in (name if not schema else f"{schema}.{name}", f"{schema}.{name}")


def _nodes(tree: Any) -> Iterator[Tree]:
    if isinstance(tree, Mapping):
        yield tree
        for value in tree.values():
            yield from _nodes(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _nodes(value)


def _own_expressions(tree: Any) -> Iterator[Tree]:
    """The nodes of an expression without those of subqueries inside it."""
    if isinstance(tree, Mapping):
        yield tree
        if tree.get("class") != "SUBQUERY":
            for value in tree.values():
                yield from _own_expressions(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _own_expressions(value)
