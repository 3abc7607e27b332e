"""Small is healthy. Modules: median 200 lines, nine of ten within 400, none above 800. Functions: nine of ten within 25, none above 70."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from tests.codebase.tree import PRODUCT, Module, modules_under

MODULE_MEDIAN, MODULE_P90, MODULE_MAX = 200, 400, 800
FUNCTION_P90, FUNCTION_MAX = 25, 70


def p90(sizes: Sequence[int]) -> int:
    return sorted(sizes)[(len(sizes) * 9 + 9) // 10 - 1]


def too_long(modules: Sequence[Module]) -> list[str]:
    found = [f"{module}: {module.lines} lines" for module in modules if module.lines > MODULE_MAX]
    return found + [
        f"{module}:{function.line} {function.name}: {function.lines} lines"
        for module in modules
        for function in module.functions
        if function.lines > FUNCTION_MAX
    ]


def test_nothing_is_too_long() -> None:
    assert not (found := too_long(modules_under())), f"split it by meaning: {found}"


def test_most_modules_are_small() -> None:
    sizes = [module.lines for module in modules_under(*PRODUCT) if module.lines]
    assert median(sizes) <= MODULE_MEDIAN
    assert p90(sizes) <= MODULE_P90, sorted((module.lines, module.path) for module in modules_under(*PRODUCT))[-10:]


def test_most_functions_are_small() -> None:
    sizes = [
        (function.lines, str(module), function.name)
        for module in modules_under(*PRODUCT)
        for function in module.functions
    ]
    assert p90([lines for lines, *_ in sizes]) <= FUNCTION_P90, sorted(sizes)[-20:]


def test_what_is_too_long_is_seen(planted: Callable[..., Module]) -> None:
    statement = "    x = 1\n"
    assert too_long([planted("def f():\n" + statement * (FUNCTION_MAX + 1))])
    assert not too_long([planted("def f():\n" + statement * FUNCTION_MAX)])
    assert not too_long([planted('def f():\n    """' + "\n" * 100 + '    """\n    return 1\n')]), (
        "a docstring may be as long as it must"
    )
    assert too_long([planted("x = 1\n" * (MODULE_MAX + 1))])
    assert p90(range(1, 11)) == 9
