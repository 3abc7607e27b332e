"""Calls that lose or double rows, whoever makes them: storage.md says why. Ours stand in `svc_storage/domain/writing/compaction.py`."""

from __future__ import annotations

import ast
from collections.abc import Callable

from tests.codebase.tree import PRODUCT, Module, modules_under

BANNED_ATTRIBUTES = {
    "optimize": "deltalake's own compaction doubles rows from a stale handle, and drops the writers' transactions",
    "z_order": "as optimize",
    "vacuum": "breaks pinned readers; garbage is collected by upkeep",
    "cleanup_metadata": "forgets the writers' records with the log",
}


def banned_calls(module: Module) -> list[str]:
    """`table.optimize…` in any form, `getattr(table, "optimize")` too."""
    found = []
    for node in ast.walk(module.tree):
        name = node.attr if isinstance(node, ast.Attribute) else ""
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "getattr" and len(node.args) > 1:
            named = node.args[1]
            name = str(named.value) if isinstance(named, ast.Constant) else ""
        if name in BANNED_ATTRIBUTES:
            line = getattr(node, "lineno", 0)
            found.append(f"{module}:{line} uses {name}: {BANNED_ATTRIBUTES[name]}")
    return found + [
        f"{module}:{one.line} imports {one.name}"
        for one in module.imports
        if one.name.startswith("deltalake.table.TableOptimizer")
    ]


def test_nothing_calls_deltalakes_maintenance(planted: Callable[..., Module]) -> None:
    modules = modules_under()
    assert {part for part in PRODUCT if modules_under(part)} == set(PRODUCT)
    assert len(modules) > 100, "the rule looked at too little"
    assert any(one.name.startswith("deltalake") for module in modules for one in module.imports)
    assert not (found := [line for module in modules for line in banned_calls(module)]), found


def test_a_planted_call_is_seen(planted: Callable[..., Module]) -> None:
    for source in (
        "def f(table):\n    table.optimize.compact()",
        "def f(table):\n    table.optimize.z_order(['a'])",
        "def f(table):\n    work = table.optimize\n    work.compact()",
        "def f(table):\n    getattr(table, 'optimize').compact()",
        "from deltalake.table import TableOptimizer",
        "def f(table):\n    table.vacuum(full=True)",
        "table.optimize.compact()",
        "table.vacuum(0)",
        "def f(builder):\n    builder.z_order(['a'])",
    ):
        assert banned_calls(planted(source, "svc_storage/adapters/planted.py")), source
    assert not banned_calls(planted("def f(table):\n    table.create_checkpoint()"))
