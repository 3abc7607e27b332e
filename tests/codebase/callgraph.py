"""Which RPCs each service can reach, read from the code: from everything in `svc_*` along names into `millrace`, to the stubs' methods.

Rapid type analysis: a function lives when live code names it; a method when live code names its class and, anywhere, an attribute of
its name. What is too wide by that would show as an edge nobody wants; what is too narrow, as a refused call in the mesh's own tests.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tests.codebase.tree import Module

_STUB = re.compile(r"^(\w+)Stub$")
Function = ast.FunctionDef | ast.AsyncFunctionDef
Rpcs = dict[str, frozenset[str]]
"""Service's bare name -> its methods."""


@dataclass
class Unit:
    """A top-level function, a method, or what a class or a module runs by itself."""

    module: str
    name: str
    nodes: list[ast.AST]
    owner: str = ""
    """`module.Class` of a method and of a class body."""


@dataclass
class Code:
    """Every unit of a set of modules, and what their names mean."""

    units: dict[str, Unit] = field(default_factory=dict)
    """`module.function`, `module.Class`, `module.Class.method`; a module's own statements under its name."""
    methods: dict[str, list[str]] = field(default_factory=dict)
    """Class -> its methods' names."""
    names: dict[str, dict[str, str]] = field(default_factory=dict)
    """Module -> imported or defined name -> what it stands for."""
    _known: dict[str, frozenset[str]] = field(default_factory=dict)
    _by_module: dict[str, list[Unit]] = field(default_factory=dict)

    def known(self, module: str) -> frozenset[str]:
        """The module, what it imports, and what that imports: nobody holds an object from farther away."""
        if module not in self._known:
            found = {module}
            for _ in range(2):
                names = {name for one in found for name in self.names[one].values()}
                found |= {place for name in names for place in (name, name.rpartition(".")[0]) if place in self.names}
            self._known[module] = frozenset(found)
        return self._known[module]

    def of_module(self, module: str) -> list[Unit]:
        if not self._by_module:
            for unit in self.units.values():
                self._by_module.setdefault(unit.module, []).append(unit)
        return self._by_module[module]


def read(modules: Iterable[Module]) -> Code:
    code = Code()
    for module in modules:
        names = code.names[module.name] = {}
        rest: list[ast.AST] = []
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Import):
                names.update({alias.asname or _top(alias.name): alias.name for alias in node.names})
            elif isinstance(node, ast.ImportFrom):
                names.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
        for statement in module.tree.body:
            if isinstance(statement, Function):
                names[statement.name] = f"{module.name}.{statement.name}"
                code.units[names[statement.name]] = Unit(module.name, statement.name, [statement])
            elif isinstance(statement, ast.ClassDef):
                names[statement.name] = f"{module.name}.{statement.name}"
                _read_class(code, module.name, statement)
            else:
                rest.append(statement)
        code.units[module.name] = Unit(module.name, "", rest)
    return code


def _top(name: str) -> str:
    return name.split(".")[0]


def _read_class(code: Code, module: str, node: ast.ClassDef) -> None:
    owner = f"{module}.{node.name}"
    body: list[ast.AST] = [*node.bases, *node.decorator_list]
    code.methods[owner] = []
    for statement in node.body:
        if isinstance(statement, Function):
            code.methods[owner].append(statement.name)
            name = f"{owner}.{statement.name}"
            code.units[name] = Unit(module, statement.name, [statement], owner)
        else:
            body.append(statement)
    code.units[owner] = Unit(module, node.name, body, owner)


@dataclass
class Reached:
    """What lives, for one set of roots."""

    code: Code
    live: set[str] = field(default_factory=set)
    attributes: dict[str, set[str]] = field(default_factory=dict)
    """Name of an attribute -> the modules whose live code names it."""

    def grow(self, roots: Iterable[str]) -> None:
        waiting = list(roots)
        while waiting:
            for name in waiting:
                self._take(name)
            waiting = [
                f"{owner}.{method}"
                for owner in [name for name in self.live if name in self.code.methods]
                for method in self.code.methods[owner]
                if f"{owner}.{method}" not in self.live and (method.startswith("__") or self._called(owner, method))
            ]

    def _called(self, owner: str, method: str) -> bool:
        """By code that can know the class: of its module, or of one that imports that, if only by way of others."""
        home = owner.rpartition(".")[0]
        return any(home in self.code.known(module) for module in self.attributes.get(method, ()))

    def _take(self, name: str) -> None:
        pending = [name]
        while pending:
            if (found := pending.pop()) in self.live or (unit := self.code.units.get(found)) is None:
                continue
            self.live.add(found)
            pending += [unit.module, *self._mentioned(unit)]

    def _mentioned(self, unit: Unit) -> Iterator[str]:
        names = self.code.names[unit.module]
        for node in _code_of(unit):
            if isinstance(node, ast.Name) and node.id in names:
                yield names[node.id]
            elif isinstance(node, ast.Attribute):
                full = f"{names.get(node.value.id, '')}.{node.attr}" if isinstance(node.value, ast.Name) else ""
                if full in self.code.units:
                    yield full
                else:
                    self.attributes.setdefault(node.attr, set()).add(unit.module)


def _code_of(unit: Unit) -> Iterator[ast.AST]:
    """What a unit runs: types that it only names in annotations do not count."""
    pending = list(unit.nodes)
    while pending:
        node = pending.pop()
        yield node
        if isinstance(node, Function):
            pending += [*node.body, *node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)]
        elif isinstance(node, ast.AnnAssign):
            pending += [node.target, *([node.value] if node.value else [])]
        else:
            pending += [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.arg)]


def reached(code: Code, roots: Iterable[str]) -> Reached:
    """`roots`: names of units that run whatever else happens."""
    found = Reached(code)
    found.grow(roots)
    return found


def uses(code: Code, roots: Iterable[str], rpcs: Rpcs) -> set[tuple[str, str]]:
    """(service's bare name, method) of every stub's method that live code names."""
    found: set[tuple[str, str]] = set()
    names = frozenset().union(*rpcs.values())
    for unit in (code.units[name] for name in reached(code, roots).live):
        for node in _code_of(unit):
            if isinstance(node, ast.Attribute) and node.attr in names:
                found |= {
                    (service, node.attr) for service in stubs_of(code, unit) if node.attr in rpcs.get(service, ())
                }
            elif _is_dynamic(node):
                for service in stubs_of(code, unit):
                    found |= {(service, method) for method in _requested(code, unit, rpcs[service])}
    return found


def stubs_of(code: Code, unit: Unit) -> set[str]:
    """Services whose stub the unit can hold: made in it, else in its class, else anywhere in its module."""
    module = code.of_module(unit.module)
    beside = [other for other in module if other.owner and other.owner == unit.owner]
    for place in ([unit], beside, module):
        if made := {service for other in place for service in _stubs_made(other)}:
            return made
    return set()


def _stubs_made(unit: Unit) -> Iterator[str]:
    for node in _code_of(unit):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if found := _STUB.match(called):
                yield found.group(1)


def _is_dynamic(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "getattr"
        and isinstance(node.args[0], ast.Name)
        and "stub" in node.args[0].id
    )


def _requested(code: Code, unit: Unit, methods: Iterable[str]) -> Iterator[str]:
    """A method found by its request's type: the ones whose requests the module names."""
    named = {node.attr for node in _code_of(code.units[unit.module]) if isinstance(node, ast.Attribute)}
    yield from (method for method in methods if f"{method}Request" in named)


def services_called(code: Code, service: str) -> set[str]:
    """The peers that a service makes a channel to: `runtime.channel("storage")`, and itself by `own_channel()`."""
    found: set[str] = set()
    for name, unit in code.units.items():
        if name.split(".")[0] != f"svc_{service}":
            continue
        for node in _code_of(unit):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                if node.func.attr == "channel" and node.args and isinstance(node.args[0], ast.Constant):
                    found.add(str(node.args[0].value))
                elif node.func.attr == "own_channel":
                    found.add(service)
    return found
