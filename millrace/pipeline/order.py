"""Which tables a SELECT reads, and whether recipes form a ring."""

from __future__ import annotations

from collections.abc import Mapping, Set


def tables_of(sql: str, namespace: str) -> set[str]:
    """Names of the tables that `sql` reads, bare within `namespace`, else full. Unreadable SQL names none: the server says why.

    Common table expressions are not tables. This only finds rings before anything is applied; the server's own parse decides.
    """
    import sqlglot
    from sqlglot import exp
    from sqlglot.errors import SqlglotError

    try:
        tree = sqlglot.parse_one(sql, dialect="duckdb")
    except SqlglotError:
        return set()
    local = {cte.alias_or_name for cte in tree.find_all(exp.CTE)}
    found = set()
    for table in tree.find_all(exp.Table):
        name = table.name.partition("$")[0]
        if table.db and table.db != namespace:
            found.add(f"namespaces/{table.db}/tables/{name}")
        elif name not in local:
            found.add(name)
    return found


def cycle_in(edges: Mapping[str, Set[str]]) -> list[str]:
    """A ring of nodes (the first again at the end), or an empty list. `edges`: a node to the nodes that it needs."""
    done: set[str] = set()

    def visit(node: str, trail: list[str]) -> list[str]:
        if node in trail:
            return [*trail[trail.index(node) :], node]
        if node in done:
            return []
        for needed in sorted(edges.get(node, ())):
            if ring := visit(needed, [*trail, node]):
                return ring
        done.add(node)
        return []

    for start in sorted(edges):
        if ring := visit(start, []):
            return ring
    return []
