"""How the command line fails: two lines, an exit code, never a traceback; and how it answers at all: fast, documented."""

from __future__ import annotations

import io
import os
import resource
import subprocess
import sys
from pathlib import Path

import click
import pytest

from millrace import errors
from millrace.cli.app import COMMANDS, app, run
from millrace.cli.failures import Failed, explain, report
from millrace.cli.options import Settings
from millrace.cli.parameters import params_of, versions_of
from millrace.laptop.home import Endpoints
from millrace.types.v1 import types_pb2
from tests.unit.cli.conftest import Cli
from tools import cli_reference

ROOT = Path(__file__).resolve().parents[3]


def millrace(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from millrace.cli import main; main()", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, **options)  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there_and_says_the_same_everywhere(name: str) -> None:
    command = app.get_command(click.Context(app), name)
    assert command is not None
    assert (command.help or "").splitlines()[0] == COMMANDS[name].summary


def test_the_reference_is_fresh_and_has_every_command() -> None:
    page = cli_reference.PAGE.read_text()
    assert all(f"\n## millrace {name}\n" in page for name in COMMANDS)
    assert page == cli_reference.page(), "run `python tools/cli_reference.py`"


def test_help_is_fast_and_loads_no_command() -> None:
    heavy = "('grpc', 'pyarrow', 'rich', 'google')"
    probe = (
        "import sys; from millrace.cli.app import run; run(['--help']);"
        f"print(sorted(name for name in sys.modules if name.split('.')[0] in {heavy}))"
    )
    said = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout.splitlines()[-1] == "[]"
    assert min(cpu_seconds("--help") for _ in range(3)) < 0.4


def cpu_seconds(*arguments: str) -> float:
    """What one command costs: the clock on the wall also counts whatever else the machine does."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert millrace(*arguments).returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["qeury"], "there is no command `qeury`", "did you mean `query`?"),
        (["get", "tabels"], "there is no kind `tabels`", "did you mean `tables`?"),
        (["get", "tables", "--outptu", "json"], "no such option '--outptu'", "`millrace get --help`"),
        (["query"], "one SELECT is needed", "-f FILE"),
        (["query", "SELECT 1", "--param", "x"], "`x` is no parameter", "--param name=value"),
        (["query", "SELECT 1", "--version", "new"], "`new` is no version", "--version flights=12"),
        (["query", "SELECT 1", "--version", "3"], "--version 3 of which table?", "--version TABLE=3"),
        (["apply", "gone.yaml"], "", ""),
        (["delete", "runs", "x"], "there is no kind `runs`", "kinds are"),
    ],
)
def test_wrong_usage_is_two_lines_and_2(
    arguments: list[str], error: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    first, second = said.err.splitlines()
    assert first.startswith("error: ")
    assert first.endswith(" [USAGE]")
    assert error in first
    assert second.startswith("hint: ")
    assert hint in second


def test_nothing_runs_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["get", "tables", "--home", str(tmp_path)]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"error: nothing runs in {tmp_path} [NOT_RUNNING]"
    assert "millrace up" in second


def test_a_server_that_is_gone_is_no_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t").write_text("x")
    Endpoints({"storage": "127.0.0.1:9"}, "", tmp_path / "t", 1, tmp_path, {}).write()
    assert run(["get", "tables", "--home", str(tmp_path), "--timeout", "0.5"]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("error: ")
    assert "nothing runs in" in second
    assert run(["status", "--home", str(tmp_path), "--timeout", "0.3"]) == 0
    assert "storage" in capsys.readouterr().out


def test_a_bug_has_no_traceback_unless_asked(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        raise ZeroDivisionError("secret")
    assert report(caught.value, debug=False) == 1
    assert "Traceback" not in capsys.readouterr().err
    assert report(caught.value, debug=True) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("kind", sorted(errors.reasons().values(), key=lambda kind: kind.reason))
def test_every_reason_has_something_to_do_next(kind: type[errors.MillraceError]) -> None:
    message, reason, hint = explain(kind("it broke"))
    assert message.startswith("it broke")
    assert reason == kind.reason
    assert hint


def test_what_a_server_says_cannot_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(Failed("a\x1b[2Jb", reason="X", hint="c\x07"), debug=False) == 1
    assert "\x1b" not in (said := capsys.readouterr().err)
    assert said.splitlines() == ["error: a\\x1b[2Jb [X]", "hint: c\\x07"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("x=1", types_pb2.Value(int=1)),
        ("x=-1.5", types_pb2.Value(float=-1.5)),
        ("x=nan", types_pb2.Value(string="nan")),
        ("x=true", types_pb2.Value(bool=True)),
        ("x=NULL", types_pb2.Value(null=types_pb2.Null())),
        ("x=", types_pb2.Value(string="")),
        ("x=a=b", types_pb2.Value(string="a=b")),
        ("x:string=1", types_pb2.Value(string="1")),
        ("x:date=2013-07-08", types_pb2.Value(date="2013-07-08")),
        ("x:decimal(5,2)=1.5", types_pb2.Value(decimal="1.50")),
    ],
)
def test_parameters(text: str, value: types_pb2.Value) -> None:
    assert params_of([text]) == {"x": value}


def test_versions() -> None:
    settings = Settings(namespace="shop")
    assert versions_of(settings, ["12", "orders=3"]) == {"": 12, "namespaces/shop/tables/orders": 3}


def test_colours_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    from millrace.cli.terminal import colour

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert colour(Terminal())
    assert not colour(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not colour(Terminal())


def test_a_closed_pipe_is_quiet(storage_home: Path, cli: Cli) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [
        sys.executable,
        "-c",
        "from millrace.cli import main; main()",
        "get",
        "tables",
        "--home",
        str(storage_home),
        "-o",
        "json",
    ]
    with os.fdopen(writing, "w") as closed:
        said = subprocess.run(
            command, cwd=ROOT, stdout=closed, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    assert (said.returncode, said.stderr) == (0, "")
