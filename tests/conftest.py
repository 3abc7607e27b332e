"""What every test has: markers that speak, a clean environment, reproducible randomness.

- `@pytest.mark.needs("chromium")` skips where the machine lacks it; `make test` lists that at the end, CI=true makes it a failure.
- `@pytest.mark.expected("backend", raises=…, reason=…)` in a suite that runs once per backend: on that backend the test has to fail so.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest

from millrace.laptop.servers import cassandra_files

CHROMIUM = "MILLRACE_CHROMIUM"
KEPT = {CHROMIUM}

hypothesis.settings.register_profile(
    "millrace", deadline=None, derandomize=os.environ.get("CI") == "true", database=None
)
hypothesis.settings.load_profile("millrace")


def chromium_path() -> Path | None:
    """The browser of the tests: what MILLRACE_CHROMIUM names, or Debian's."""
    path = Path(os.environ.get(CHROMIUM, "/usr/bin/chromium"))
    return path if os.access(path, os.X_OK) else None


def _runs_as_others() -> bool:
    """A PostgreSQL server refuses to run as root; as root we may become `nobody`."""
    return os.geteuid() != 0 or subprocess.run(["true"], user="nobody", check=False).returncode == 0


def _has_cassandra() -> bool:
    """Java 17, and the jars of Cassandra or Maven to fetch them."""
    return cassandra_files.has_java() and (cassandra_files.cached_jars().is_dir() or shutil.which("mvn") is not None)


def _makes_namespaces() -> bool:
    """Linux, as root: namespaces for mounts and processes."""
    command = ["unshare", "--mount", "--pid", "--fork", "mount", "--make-rprivate", "/"]
    return shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0


TOOLS: dict[str, Callable[[], object]] = {
    "cassandra": functools.cache(_has_cassandra),
    "chromium": chromium_path,
    "grpcurl": lambda: shutil.which("grpcurl", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"),
    "namespaces": functools.cache(_makes_namespaces),
    "postgres": _runs_as_others,
    "strace": lambda: shutil.which("strace"),
}


def pytest_configure(config: pytest.Config) -> None:
    # A developer's own `make up` must not leak into the tests, nor its targets and tokens into what they start.
    for name in [name for name in os.environ if name.startswith("MILLRACE_") and name not in KEPT]:
        del os.environ[name]
    # A shell's background job ignores Ctrl-C, and what it starts would too.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        _apply_needs(item)
        _apply_expected(item)


def _apply_needs(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        for tool in marker.args:
            if not TOOLS[tool]():
                item.add_marker(pytest.mark.skip(reason=f"needs {tool}, which this machine lacks"))


def _apply_expected(item: pytest.Item) -> None:
    callspec = getattr(item, "callspec", None)
    ids = callspec.id.split("-") if callspec else []
    for marker in item.iter_markers("expected"):
        if marker.args[0] in ids:
            item.add_marker(
                pytest.mark.xfail(strict=True, raises=marker.kwargs["raises"], reason=marker.kwargs["reason"])
            )


@pytest.fixture(scope="session")
def chromium() -> Path:
    """Path of the browser; ask for it together with `needs("chromium")`."""
    path = chromium_path()
    assert path is not None
    return path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A MILLRACE_HOME of the test's own."""
    folder = tmp_path / "home"
    folder.mkdir(mode=0o700)
    return folder
