"""What SQL may say: one SELECT over named tables, with listed functions. Everything else is refused by name.

The text is parsed by the very parser that will run it (`json_serialize_sql`), and whatever this module does not know is
refused. An instance's own locks (`instance.py`) are the second wall: they alone would let `COPY` write over a table's file.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import duckdb

from millrace.engine.functions import ALLOWED, TABLE_FUNCTIONS, TYPES, VOLATILE, words
from millrace.engine.names import TableRef
from millrace.errors import SqlInvalid

MAX_SQL_BYTES = 64 * 1024
_Config: TypeAlias = dict[str, str | bool | int | float | list[str]]
_MAX_DEPTH = 400
_FEW_BRACKETS, _MAX_BRACKETS = 500, 200
_OPENING = re.compile(r"[(\[{]")
_UNCERTAIN = re.compile(r"/\*|\$\w*\$|\b[eE]'")
_TOKENS = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|[(\[{]|[)\]}]")

MAX_GROWTH = 10_000
"""By how much all of a text's `repeat` and `lpad` together may blow a value up."""
_GROWING = {"repeat": 1, "lpad": 1, "rpad": 1, "list_resize": 1, "array_resize": 1, "bar": 3}
"""Function → which argument says how large its value becomes. DuckDB computes constants while it plans, where neither its memory limit nor
an interrupt reaches: `range(1000000000)` took 12 GB and every thread, `lpad` half a minute after its deadline."""
_SERIES = frozenset({"range", "generate_series"})
_WIDE = re.compile(r"\d{5,}|\*|\{[^}]*\{")

_EXPRESSIONS = words(
    """
    BETWEEN CASE CAST COLLATE COLUMN_REF COMPARISON CONJUNCTION CONSTANT FUNCTION LAMBDA LAMBDA_REF OPERATOR PARAMETER
    POSITIONAL_REFERENCE STAR SUBQUERY TYPE WINDOW
    """
)
_NODES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
_MODIFIERS = words(
    """
    ORDER_MODIFIER LIMIT_MODIFIER LIMIT_PERCENT_MODIFIER DISTINCT_MODIFIER ORDER_DEFAULT ORDER_ASCENDING
    ORDER_DESCENDING ASCENDING DESCENDING
    """
)
_TABLE_KINDS = frozenset(["BASE_TABLE", "SUBQUERY", "JOIN", "TABLE_FUNCTION", "EXPRESSION_LIST", "EMPTY", "PIVOT"])


@dataclass(slots=True)
class Parsed:
    """What an accepted SELECT uses. `parameters`: names without `$`. `ordered`: it has an ORDER BY of its own at the top.

    `volatile`: why the answer depends on more than the tables (`now`, `random`, TABLESAMPLE); empty: it does not. `tree`: the query node,
    as `json_serialize_sql` writes it without nulls, empty values and defaults."""

    tables: set[TableRef] = field(default_factory=set)
    parameters: set[str] = field(default_factory=set)
    volatile: set[str] = field(default_factory=set)
    ordered: bool = False
    tree: dict[str, Any] = field(default_factory=dict)


def parse(sql: str) -> Parsed:
    """Checks `sql` and says what it uses. Raises SqlInvalid naming what is refused; nothing is run."""
    if len(sql.encode()) > MAX_SQL_BYTES:
        raise SqlInvalid(f"the text is longer than {MAX_SQL_BYTES // 1024} KiB")
    if "\x00" in sql:
        raise SqlInvalid("refused: a NUL character")
    _check_brackets(sql)
    tree = _tree(sql)
    found = Parsed(tree=tree)
    _Walk(found).visit(tree, {}, 0)
    found.ordered = any(m.get("type") == "ORDER_MODIFIER" for m in tree.get("modifiers", ()))
    return found


def _check_brackets(sql: str) -> None:
    """Before the parser sees it: DuckDB 2's needs memory by the square of nested brackets (5,000 took 4 GB, 30,000 killed the process).

    Few brackets cannot nest deeply. With many, texts are told apart as the parser does; what makes that uncertain is refused."""
    if len(_OPENING.findall(sql)) <= _FEW_BRACKETS:
        return
    if _UNCERTAIN.search(sql):
        raise SqlInvalid(
            f"refused: more than {_FEW_BRACKETS} brackets beside block comments, dollar quotes or E'' strings"
        )
    depth = 0
    for token in _TOKENS.findall(sql):
        if token in ("(", "[", "{"):
            depth += 1
            if depth > _MAX_BRACKETS:
                raise SqlInvalid("the text is nested too deeply")
        elif token in (")", "]", "}"):
            depth -= 1


def with_total_order(sql: str, columns: int) -> str:
    """An accepted text whose ties are broken by all its `columns`, after whatever order it asks for itself."""
    tree = _PARSER.tree(sql)
    modifiers = tree["statements"][0]["node"]["modifiers"]
    order = next((m for m in modifiers if m.get("type") == "ORDER_MODIFIER"), None)
    if order is None:
        return f"SELECT * FROM ({sql.strip().rstrip(';')}\n) ORDER BY ALL"
    template = order["orders"][0]
    if template["expression"].get("class") == "STAR":  # ORDER BY ALL
        return sql
    for position in range(1, columns + 1):
        ordinal = {"class": "CONSTANT", "type": "VALUE_CONSTANT", "alias": "", "literal": _integer(position)}
        order["orders"].append({**template, "type": "ASC", "expression": ordinal})
    return _PARSER.text(tree)


def _integer(value: int) -> dict[str, str]:
    return {"kind": "INTEGER", "text": str(value)}


class _Parser:
    """A connection that never sees data: it only turns text into a tree. Made at first use, one per process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection: duckdb.DuckDBPyConnection | None = None

    def serialise(self, sql: str) -> dict[str, Any]:
        """Without what is empty: quick to walk."""
        brief = "SELECT json_serialize_sql($1, skip_null := true, skip_empty := true, skip_default := true)"
        return self._tree(brief, sql)

    def tree(self, sql: str) -> dict[str, Any]:
        """With everything, so that `text` can write it again."""
        return self._tree("SELECT json_serialize_sql($1)", sql)

    def text(self, tree: dict[str, Any]) -> str:
        return self._ask("SELECT json_deserialize_sql($1::JSON)", json.dumps(tree))

    def _tree(self, question: str, sql: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._ask(question, sql))
        return found

    def _ask(self, question: str, argument: str) -> str:
        with self._lock:
            if self._connection is None:
                config: _Config = {"threads": "1", "memory_limit": "256MB", "autoload_known_extensions": "false"}
                self._connection = duckdb.connect(":memory:", config=config)
                self._connection.execute("SET enable_external_access = false; SET lock_configuration = true")
            rows = self._connection.execute(question, [argument]).fetchall()
        return str(rows[0][0])


_PARSER = _Parser()


def _tree(sql: str) -> dict[str, Any]:
    try:
        answer = _PARSER.serialise(sql)
    except RecursionError as error:
        raise SqlInvalid("the text is nested too deeply") from error
    except duckdb.Error as error:
        raise SqlInvalid(f"the text cannot be parsed: {_first_line(str(error))}") from error
    if answer.get("error"):
        text = _first_line(str(answer.get("error_message", "")))
        if answer.get("error_type") == "not implemented":
            raise SqlInvalid(f"refused: {_verb(sql)} (only one SELECT is allowed)")
        raise SqlInvalid(f"the text cannot be parsed: {text}")
    statements = answer.get("statements", [])
    if len(statements) != 1:
        raise SqlInvalid(f"refused: {len(statements)} statements (exactly one SELECT is allowed)")
    node = statements[0].get("node")
    if not isinstance(node, dict):
        raise SqlInvalid("refused: this is not a SELECT")
    return node


def _verb(sql: str) -> str:
    """The first word of the statement that is no SELECT, as far as splitting at semicolons can tell; for people."""
    verbs = [words[0].upper()[:30] for part in sql.split(";") if (words := part.split())]
    other = [verb for verb in verbs if verb not in ("SELECT", "WITH", "FROM", "VALUES", "TABLE")]
    return f"`{other[0]}` is not a SELECT" if other else "not a SELECT"


def _first_line(text: str) -> str:
    return text.split("\n", 1)[0][:300]


class _Walk:
    """One pass over the tree with the CTE names in sight. `scope`: name in lower case → True when it is recursive."""

    def __init__(self, found: Parsed) -> None:
        self._found = found
        self._growth = 1
        self._streamed: set[int] = set()

    def visit(self, node: Any, scope: Mapping[str, bool], depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise SqlInvalid("the text is nested too deeply")
        if isinstance(node, list):
            for item in node:
                self.visit(item, scope, depth + 1)
        elif isinstance(node, dict):
            if "class" in node:
                self._expression(node)
            elif isinstance(kind := node.get("type"), str):
                scope = self._typed(kind, node, scope, depth)
            for key, child in node.items():
                if key not in ("cte_map", "literal", "sample"):
                    self.visit(child, scope, depth + 1)

    def _typed(self, kind: str, node: dict[str, Any], scope: Mapping[str, bool], depth: int) -> Mapping[str, bool]:
        if kind in _NODES:
            scope = self._with_ctes(node, scope, depth)
            if kind == "RECURSIVE_CTE_NODE":
                return {**scope, str(node.get("cte_name", "")).lower(): True}
            return scope
        if kind in _TABLE_KINDS:
            self._table(kind, node, scope)
        elif kind not in _MODIFIERS:
            raise SqlInvalid(f"refused: {_readable(kind)}")
        return scope

    def _with_ctes(self, node: dict[str, Any], scope: Mapping[str, bool], depth: int) -> Mapping[str, bool]:
        """CTE by CTE: each sees the ones before it, and itself only where it is recursive, as DuckDB resolves them."""
        known = dict(scope)
        for entry in node.get("cte_map", {}).get("map", ()):
            self.visit(entry.get("value"), known, depth + 1)
            known[str(entry.get("key", "")).lower()] = _is_recursive(entry)
        return known

    def _table(self, kind: str, node: dict[str, Any], scope: Mapping[str, bool]) -> None:
        if node.get("sample"):
            self._found.volatile.add("TABLESAMPLE")
        if kind == "BASE_TABLE":
            self._base_table(node, scope)
        elif kind == "TABLE_FUNCTION":
            function = node.get("function", {})
            self._streamed.add(id(function))  # written in FROM, a series comes in chunks
            name = str(function.get("function_name", "")).lower()
            if name not in TABLE_FUNCTIONS:
                raise SqlInvalid(f"refused: the table function `{name}` (allowed: unnest, range, generate_series)")

    def _base_table(self, node: dict[str, Any], scope: Mapping[str, bool]) -> None:
        catalog, schema = str(node.get("catalog_name", "")), str(node.get("schema_name", "")).lower()
        name = str(node.get("table_name", "")).lower()
        if node.get("at_clause"):
            raise SqlInvalid(f"refused: AT on `{name}` (name the version in the request's `versions`)")
        if catalog:
            raise SqlInvalid(f"refused: the database `{catalog}` (a table is `T` or `namespace.T`)")
        if not schema and name in scope:
            return
        if schema == "recurring" and scope.get(name):
            return
        ref = TableRef(schema, name)
        ref.full_name("default")
        self._found.tables.add(ref)

    def _expression(self, node: dict[str, Any]) -> None:
        kind = str(node["class"])
        if kind not in _EXPRESSIONS:
            raise SqlInvalid(f"refused: {_readable(kind)}")
        if kind in ("FUNCTION", "WINDOW"):
            self._function(str(node.get("function_name", "")).lower())
            self._size(node)
        elif kind == "TYPE":
            self._type(node)
        elif kind == "PARAMETER":
            self._found.parameters.add(str(node.get("identifier", "")))
        elif kind == "COLUMN_REF":
            names = [str(name).lower() for name in node.get("column_names", ())]
            self._found.volatile.update(VOLATILE.intersection(names if len(names) == 1 else ()))

    def _function(self, name: str) -> None:
        if name not in ALLOWED:
            raise SqlInvalid(f"refused: the function `{name}` is not on the list of allowed functions")
        if name in VOLATILE:
            self._found.volatile.add(name)

    def _size(self, node: dict[str, Any]) -> None:
        """Raises SqlInvalid for a function whose value may be of any size."""
        name = str(node.get("function_name", "")).lower()
        arguments = [argument.get("expression", argument) for argument in node.get("arguments", ())]
        if name in _SERIES and id(node) not in self._streamed:
            raise SqlInvalid(
                f"refused: `{name}` as a value, which has to be built whole",
                hint=f"write it in FROM, where it streams: FROM {name}(…) t(i)",
            )
        if name in ("format", "printf"):
            text = _constant(arguments[0]) if arguments else None
            if text is None or _WIDE.search(text):
                raise SqlInvalid(f"refused: `{name}` with a pattern that is no constant, or with a width of its own")
        if (at := _GROWING.get(name)) is not None and len(arguments) > at:
            text = _constant(arguments[at])
            if text is None or not text.isdecimal():
                raise SqlInvalid(f"refused: `{name}` with a size that is no constant", hint="write the number itself")
            self._growth *= max(1, int(text[:20]))
            if self._growth > MAX_GROWTH:
                raise SqlInvalid(
                    f"refused: `{name}` beyond {MAX_GROWTH:,}", hint="all sizes of one text are multiplied: lower them"
                )

    def _type(self, node: dict[str, Any]) -> None:
        name = str(node.get("type_name", "")).lower()
        if node.get("schema") or node.get("catalog") or (name and name not in TYPES):
            raise SqlInvalid(f"refused: the type `{name}`")


def _constant(expression: dict[str, Any]) -> str | None:
    """The literal's text; None when the value is known only when the text runs."""
    literal = expression.get("literal")
    return str(literal.get("text", "")) if isinstance(literal, dict) else None


def _is_recursive(entry: dict[str, Any]) -> bool:
    query = entry.get("value", {}).get("query_node", {})
    return bool(query.get("type") == "RECURSIVE_CTE_NODE")


def _readable(kind: str) -> str:
    names = {"SHOW_REF": "SHOW, DESCRIBE and SUMMARIZE", "DEFAULT": "DEFAULT", "COLUMN_DATA": "column data"}
    return names.get(kind, kind.lower().replace("_", " "))
