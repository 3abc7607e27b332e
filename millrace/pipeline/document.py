"""YAML with a place for every value, so that a mistake is named with line, column and the nearest right word."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

import yaml

from millrace.errors import FixRequest


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a file. `line` and `column` count from 1."""

    file: str
    line: int
    column: int
    path: str
    text: str

    def __str__(self) -> str:
        where = f" at {self.path}" if self.path else ""
        return f"{self.file}:{self.line}:{self.column}: {self.text}{where}"


class PipelineInvalid(FixRequest):
    """The file cannot be applied; `problems` has every mistake that was found, in the order of the file."""

    reason = "PIPELINE_INVALID"

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda p: (p.line, p.column)))
        super().__init__(
            "\n".join(map(str, self.problems)), hint="nothing was applied; mend the file and apply it again"
        )


class Problems:
    """Collects mistakes, so that one look at the output mends the whole file."""

    def __init__(self, file: str) -> None:
        self._file = file
        self.found: list[Problem] = []

    def add(self, node: yaml.Node, path: str, text: str) -> None:
        mark = node.start_mark
        self.found.append(Problem(self._file, mark.line + 1, mark.column + 1, path, text))

    def raise_any(self) -> None:
        if self.found:
            raise PipelineInvalid(self.found)


def nearest(word: str, known: Iterable[str]) -> str:
    """ "; did you mean `x`?" or "; known here: a, b" for a word that is not known."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean `{close[0]}`?"
    return f"; known here: {', '.join(names)}" if names else ""


def parse(text: str, file: str) -> list[yaml.Node]:
    """The documents of a YAML text as nodes. Raises PipelineInvalid where it is not YAML."""
    try:
        return list(yaml.compose_all(text, Loader=yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise PipelineInvalid([Problem(file, line, column, "", f"not YAML: {error.problem}")]) from error
    except yaml.YAMLError as error:
        raise PipelineInvalid([Problem(file, 1, 1, "", f"not YAML: {error}")]) from error


def entries(node: yaml.Node, path: str, problems: Problems) -> dict[str, tuple[yaml.Node, yaml.Node]]:
    """A mapping's (key node, value node) by key; anything else, and a doubled key, is a problem."""
    if not isinstance(node, yaml.MappingNode):
        if not is_null(node):
            problems.add(node, path, "a mapping belongs here")
        return {}
    found: dict[str, tuple[yaml.Node, yaml.Node]] = {}
    for key, value in node.value:
        name = str(key.value) if isinstance(key, yaml.ScalarNode) else ""
        if not name:
            problems.add(key, path, "a key must be a plain word")
        elif name in found:
            problems.add(key, f"{path}.{name}".lstrip("."), "said twice")
        else:
            found[name] = (key, value)
    return found


def known_entries(
    node: yaml.Node, path: str, known: Iterable[str], problems: Problems
) -> dict[str, tuple[yaml.Node, yaml.Node]]:
    """`entries`, with every key that is not in `known` named as a problem and left out."""
    allowed = set(known)
    found = entries(node, path, problems)
    for name in [name for name in found if name not in allowed]:
        key, _ = found.pop(name)
        problems.add(key, f"{path}.{name}".lstrip("."), f"unknown key `{name}`{nearest(name, allowed)}")
    return found


def is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def scalar(node: yaml.Node, path: str, problems: Problems) -> str | None:
    """The text of a scalar as it stands in the file (a date stays text); None and a problem for anything else."""
    if isinstance(node, yaml.ScalarNode) and not is_null(node):
        return str(node.value)
    problems.add(node, path, "a single value belongs here")
    return None


def items(node: yaml.Node, path: str, problems: Problems) -> list[yaml.Node]:
    """A sequence's nodes; one scalar counts as a list of one."""
    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    if isinstance(node, yaml.ScalarNode):
        return [] if is_null(node) else [node]
    problems.add(node, path, "a list belongs here")
    return []
