"""Each alert fires and stays silent where it must, knows only metrics that exist, and has a runbook whose commands can be given."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from millrace.cli.app import app
from millrace.server import names
from tests.codebase.tree import ROOT
from tools import infra_tools

RULES = ROOT / "manifests" / "telemetry" / "rules"
RUNBOOKS = ROOT / "docs" / "runbooks"
SUFFIXES = ("", "_total", "_seconds", "_bytes", "_seconds_count", "_seconds_sum", "_seconds_bucket")


def rules() -> list[dict[str, Any]]:
    return [
        rule for group in yaml.safe_load((RULES / "millrace.yaml").read_text())["groups"] for rule in group["rules"]
    ]


ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}


@pytest.fixture(scope="module")
def promtool() -> Path:
    """Debian's, unpacked into the cache when it is not there."""
    infra_tools.make(infra_tools.tool("prometheus"))
    return infra_tools.cache() / "bin" / "promtool"


@pytest.mark.parametrize("file", ["tests.yaml", "tests_burn.yaml"])
def test_alerts_fire_and_stay_silent(promtool: Path, file: str) -> None:
    answer = subprocess.run([promtool, "test", "rules", file], cwd=RULES, capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_has_both_tests_and_a_runbook(alert: str) -> None:
    tests = [one for file in RULES.glob("tests*.yaml") for one in yaml.safe_load(file.read_text())["tests"]]
    seen = {bool(case["exp_alerts"]) for one in tests for case in one["alert_rule_test"] if case["alertname"] == alert}
    assert seen == {True, False}
    runbook = ROOT / ALERTS[alert]["annotations"]["runbook"]
    assert alert in runbook.read_text()


def test_rules_know_only_metrics_that_exist() -> None:
    known = {value.replace(".", "_") for value in vars(names).values() if isinstance(value, str)}
    used = {found for rule in rules() for found in re.findall(r"\b(?:millrace|rpc)_[a-z_]+\b", rule["expr"])}
    used -= {"rpc_method", "rpc_status_code"}
    used = {one for one in used if not re.match(r"millrace_(calls|errors)$", one)}
    assert used
    assert {
        one for one in used if not any(one.removesuffix(end) in known for end in SUFFIXES if one.endswith(end))
    } == set()


@pytest.mark.parametrize("runbook", sorted(RUNBOOKS.glob("*.md")), ids=lambda path: path.stem)
def test_a_runbooks_commands_can_be_given(runbook: Path) -> None:
    """Ours are parsed by the command line itself, not run: what they show needs a pipeline in trouble."""
    commands = [shlex.split(line) for line in runbook.read_text().splitlines() if line.startswith("    ")]
    assert commands
    for program, *arguments in commands:
        if program == "millrace":
            given(app, arguments)
        else:
            assert program in ("kubectl", "istioctl")


def given(command: click.Command, arguments: list[str]) -> None:
    """Raises UsageError for what the command does not know."""
    context = command.make_context("millrace", list(arguments))
    if isinstance(command, click.Group):
        name, found, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        assert found is not None, name
        given(found, rest)


def test_the_collector_measures_before_it_samples() -> None:
    config = yaml.safe_load((RULES.parent / "collector" / "collector.yaml").read_text())
    pipelines = config["service"]["pipelines"]
    assert pipelines["traces/measured"] == {
        "receivers": ["otlp"], "processors": ["memory_limiter"], "exporters": ["spanmetrics"]
    }  # fmt: skip
    assert pipelines["traces/sampled"]["processors"] == ["memory_limiter", "tail_sampling", "batch"]
