"""The folders show the architecture: five services arranged the same way, decisions with their proofs, documents that hold."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.codebase.tree import ROOT, SERVICES, tracked

PARTS = (
    "README.md",
    "__main__.py",
    "config.py",
    "ports.py",
    "servicers/",
    "convert/",
    "domain/",
    "adapters/",
    "adapters/memory",
)
MAIN_MAX = 80
ADR_HEADINGS = ("## Context", "## Decision", "## Consequences")
STATUS = re.compile(r"^Status: (proposed|accepted|superseded)\b.*· Proof: `?(?P<proof>[\w./-]+)", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")


def missing_parts(service: str, paths: tuple[str, ...]) -> list[str]:
    return [part for part in PARTS if not any(path.startswith(f"svc_{service}/{part}") for path in paths)]


@pytest.mark.parametrize("service", SERVICES)
def test_services_are_arranged_the_same_way(service: str) -> None:
    assert not (found := missing_parts(service, tracked())), f"svc_{service} lacks {found}"
    assert missing_parts(service, ("svc_other/README.md",)) == list(PARTS)


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_starts_in_a_few_lines_and_explains_itself(service: str) -> None:
    folder = ROOT / f"svc_{service}"
    assert len((folder / "__main__.py").read_text().splitlines()) <= MAIN_MAX
    assert "```mermaid" in (folder / "README.md").read_text(), "draw the flow"


def flaws(adr: str, root: Path) -> list[str]:
    found = [f"no {heading!r}" for heading in ADR_HEADINGS if heading not in adr]
    if (status := STATUS.search(adr)) is None:
        found.append("no line `Status: accepted YYYY-MM-DD · Proof: tests/…`")
    elif not (root / status["proof"]).exists():
        found.append(f"its proof {status['proof']} does not exist")
    return found


def test_decisions_have_context_and_proof() -> None:
    decisions = sorted((ROOT / "docs" / "adr").glob("[0-9]*.md"))
    assert decisions, "the rule looked at nothing"
    for path in decisions:
        assert re.fullmatch(r"\d{3}-[a-z0-9-]+\.md", path.name), path.name
        assert not (found := flaws(path.read_text(), ROOT)), f"{path.name}: {found}"
    assert flaws("# 1\nStatus: accepted 2026-01-01 · Proof: tests/gone.py\n## Context\n## Decision\n", ROOT) == [
        "no '## Consequences'",
        "its proof tests/gone.py does not exist",
    ]


def dead_links(path: str, text: str, root: Path) -> list[str]:
    return [f"{path} -> {target}" for target in LINK.findall(text) if not ((root / path).parent / target).exists()]


def test_documents_link_to_what_exists() -> None:
    documents = [path for path in tracked() if path.endswith(".md") and not path.startswith("third_party/")]
    assert documents, "the rule looked at nothing"
    assert not (found := [line for path in documents for line in dead_links(path, (ROOT / path).read_text(), ROOT)]), (
        found
    )
    assert dead_links("README.md", "see [it](docs/gone.md) and [that](https://example.org)", ROOT) == [
        "README.md -> docs/gone.md"
    ]
