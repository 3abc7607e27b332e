"""What no file may say: paths of one machine, addresses of registries, calls known to lose rows."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable

from tests.codebase.tree import PRODUCT, Module, modules_under, texts

Planter = Callable[..., Module]

# Written in pieces, or this file would break its own rules.
MACHINE = re.compile(r"(?<![\w.~$}])/(?:work|root|home|Users|mnt)" + r"/\w")
HOSTS = (
    "files.python|hosted.org",
    "pypi.|org/simple",
    "registry.npm|js.org",
    "repo.|maven.",
    "proxy.|golang.",
    "static.|crates.io",
)
OPTIONS = "--(?:index-|extra-index-|find-)(?:url|links)[ =]+[^ ]"
REGISTRY = re.compile("|".join([OPTIONS, *(re.escape(host.replace("|", "")) for host in HOSTS)]))
VENDORED = ("third_party/",)


def saying(pattern: re.Pattern[str], path: str, text: str) -> list[str]:
    return [
        f"{path}:{number}: {line.strip()[:120]}"
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


def everywhere(pattern: re.Pattern[str]) -> list[str]:
    return [
        line
        for path, text in texts()
        if not path.startswith(VENDORED) and not path.endswith(".svg")
        for line in saying(pattern, path, text)
    ]


def test_no_path_of_one_machine() -> None:
    assert not (found := everywhere(MACHINE)), found
    assert saying(MACHINE, "a.py", "open('/ro" + "ot/data')")
    assert not saying(MACHINE, "a.py", "a = ROOT / 'work/x', 'https://example.org/home/x'")


def test_no_address_of_a_registry() -> None:
    assert not (found := everywhere(REGISTRY)), found
    assert saying(REGISTRY, "a.txt", "--index-" + "url https://example.org/simple")


def open_ends(module: Module) -> list[str]:
    """Code that says it does not work. Abstract members of a Protocol are `...`, so nobody needs it."""
    found = []
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Name) and node.id == "NotImplementedError":
            found.append(f"{module}:{node.lineno} {node.id}")
        if isinstance(node, ast.Attribute) and node.attr == "UNIMPLEMENTED" and not module.path.endswith("/status.py"):
            found.append(f"{module}:{node.lineno} {node.attr}")
    return found


def test_nothing_is_declared_before_it_works(planted: Planter) -> None:
    modules = modules_under(*PRODUCT)
    assert not (found := [line for module in modules for line in open_ends(module)]), found
    assert open_ends(planted("raise NotImplementedError"))
    assert open_ends(planted("code = grpc.StatusCode.UNIMPLEMENTED"))


LONG_SLEEP = re.compile(r"\b(?:time|asyncio)\.sleep\((?:[2-9]|\d\d)")


def test_tests_wait_for_conditions() -> None:
    tests = [(path, text) for path, text in texts() if path.startswith("tests/") and path.endswith(".py")]
    assert tests, "the rule looked at nothing"
    assert not (found := [line for path, text in tests for line in saying(LONG_SLEEP, path, text)]), (
        f"wait for the condition: {found}"
    )
    assert saying(LONG_SLEEP, "tests/a.py", "time.sl" + "eep(5)")
