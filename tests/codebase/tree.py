"""The code base as data: modules with their imports and functions, read from source without importing anything."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("extract", "storage", "transform", "analysis", "viz")
PRODUCT = ("millrace", *(f"svc_{service}" for service in SERVICES))
"""The folders that are installed; tests, tools, bench and examples are read too, but held to fewer rules."""
GENERATED = ("_pb2.py", "_pb2_grpc.py")


@dataclass(frozen=True, slots=True)
class Import:
    """One imported name, `from a.b import c` as `a.b.c`; `deferred` where it stands inside a function."""

    name: str
    line: int
    deferred: bool


@dataclass(frozen=True, slots=True)
class Function:
    """`lines` counts the body from its first statement after the docstring to its last."""

    name: str
    line: int
    lines: int


@dataclass(frozen=True, slots=True)
class Module:
    path: str
    """Relative to the repository, with slashes."""
    source: str
    tree: ast.Module

    @property
    def name(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def lines(self) -> int:
        return len(self.source.splitlines())

    @property
    def imports(self) -> list[Import]:
        return list(_imports(self.tree, deferred=False))

    @property
    def functions(self) -> list[Function]:
        nodes = (node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
        return [Function(node.name, node.lineno, _body_lines(node)) for node in nodes]

    def __str__(self) -> str:
        return self.path


def parse(path: str, source: str) -> Module:
    return Module(path, source, ast.parse(source, path))


def _imports(node: ast.AST, *, deferred: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, child.lineno, deferred) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"relative import in line {child.lineno}"
            yield from (Import(f"{child.module}.{alias.name}", child.lineno, deferred) for alias in child.names)
        inside = deferred or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from _imports(child, deferred=inside)


def _body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def touches(imported: str, banned: str) -> bool:
    return imported == banned or imported.startswith(banned + ".")


def reaching(module: Module, banned: tuple[str, ...]) -> list[str]:
    """`path:line imports name` for every import that is one of `banned` or lies below one."""
    return [
        f"{module}:{found.line} imports {found.name}"
        for found in module.imports
        if any(touches(found.name, name) for name in banned)
    ]


@cache
def tracked() -> tuple[str, ...]:
    """Every file that git keeps or would keep, so that a rule holds before the commit too."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return tuple(sorted(path for path in set(listing.stdout.splitlines()) if (ROOT / path).is_file()))


@cache
def modules_under(*folders: str) -> tuple[Module, ...]:
    """The hand-written modules below these folders (or all of them); never an empty answer."""
    paths = [
        path
        for path in tracked()
        if path.endswith(".py")
        and not path.endswith(GENERATED)
        and (not folders or any(path == f"{folder}.py" or path.startswith(f"{folder}/") for folder in folders))
    ]
    assert paths, f"the rule looked at nothing below {folders}: has the folder moved?"
    return tuple(parse(path, (ROOT / path).read_text()) for path in paths)


@cache
def texts() -> tuple[tuple[str, str], ...]:
    """(path, content) of every text file."""
    found = []
    for path in tracked():
        content = (ROOT / path).read_bytes()
        if b"\0" not in content[:4096]:
            found.append((path, content.decode(errors="replace")))
    assert len(found) > 20, "the rule looked at almost nothing"
    return tuple(found)
