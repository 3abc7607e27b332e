"""Imports: no cycles, nothing hidden in functions but what is listed, and importing does nothing."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterable
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from tests.codebase.tree import PRODUCT, ROOT, Module, modules_under, touches

Planter = Callable[..., Module]

DEFERRED = {
    # (where, what): why it may be imported inside a function
    ("svc_analysis", "statsmodels"): "1.9 s to import: on the first statistic",
    ("svc_extract", "adbc_driver_postgresql"): "0.5 s and a shared library: with the first SQL source",
    ("svc_extract", "adbc_driver_manager"): "comes with adbc_driver_postgresql",
    (
        "svc_storage.stores",
        "svc_storage.adapters.cassandra",
    ): "its driver, 0.2 s: only where the tables are in Cassandra",
    ("svc_storage.stores", "svc_storage.adapters.s3"): "obstore, 0.1 s: only where the tables are on S3",
    ("svc_storage.stores", "svc_storage.adapters.archive.bucket"): "the same: only where exports go to S3",
    ("millrace.cli", "bokeh"): "0.5 s: only where a chart is drawn",
    ("millrace.pipeline", "sqlglot"): "0.2 s: only where a transform's inputs are read from its SQL",
    ("millrace.server", "opentelemetry.exporter"): "0.3 s: only where an OTLP endpoint is set",
    ("millrace.server.keys", "jwt"): "0.3 s with cryptography: only where signed tokens are shown",
    ("millrace.server.tokens", "jwt"): "the same",
    ("millrace.client", "pandas"): "optional: `.to_pandas()`",
    ("millrace.client", "polars"): "optional: `.to_polars()`",
}
LAZY = "millrace"
"""The package itself exports lazily (PEP 562): a stub's import does not load the client."""
COMMANDS = ("millrace.cli", "millrace.laptop")
"""The command line answers `--help` in 0.2 s: its commands import what they run when they run."""


def graph_of(modules: Iterable[Module]) -> dict[str, set[str]]:
    """Module -> modules it imports, deferred ones and those for types included."""
    names = {module.name for module in modules}
    graph: dict[str, set[str]] = {}
    for module in modules:
        targets = {found.name if found.name in names else found.name.rpartition(".")[0] for found in module.imports}
        graph[module.name] = (targets & names) - {module.name}
    return graph


def cycle_in(graph: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_import_cycle(planted: Planter) -> None:
    assert not (found := cycle_in(graph_of(modules_under(*PRODUCT)))), " -> ".join(found)
    one = planted("from svc_storage.domain import two", "svc_storage/domain/one.py")
    two = planted("def f():\n    from svc_storage.domain.one import f", "svc_storage/domain/two.py")
    assert cycle_in(graph_of([one, two]))


def hidden(module: Module) -> list[str]:
    def listed(name: str) -> bool:
        if any(touches(module.name, where) and touches(name, what) for where, what in DEFERRED):
            return True
        command = any(touches(module.name, command) for command in COMMANDS)
        return module.name == LAZY or (command and touches(name, "millrace"))

    return [
        f"{module}:{found.line} imports {found.name}"
        for found in module.imports
        if found.deferred and not listed(found.name)
    ]


def test_no_import_is_hidden_in_a_function(planted: Planter) -> None:
    for module in modules_under(*PRODUCT):
        assert not (found := hidden(module)), f"{found}: import at the top, or add it to DEFERRED with its reason"
    assert hidden(planted("def f():\n    import json"))
    assert hidden(planted("def f():\n    import statsmodels.api", "svc_viz/adapters/planted.py"))
    assert not hidden(planted("def f():\n    import statsmodels.api", "svc_analysis/adapters/planted.py"))


PROBE = """
    import importlib, sys, threading
    root, names = sys.argv[1], sys.argv[2:]
    ACTS = {"socket.bind", "socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.fork", "os.mkdir", "os.remove",
            "os.rename", "os.putenv", "os.unsetenv", "sqlite3.connect", "shutil.rmtree", "tempfile.mkdtemp"}
    found = set()

    def culprit():
        # The innermost frame of ours, unless an import lies between: then a library did it while it was loaded.
        frame = sys._getframe(1)
        while frame is not None:
            file = frame.f_code.co_filename
            if file.startswith("<frozen importlib"):
                return None
            if file.startswith(root + "/") and "/.venv/" not in file:
                return f"{file[len(root) + 1:]}:{frame.f_lineno}"
            frame = frame.f_back
        return None

    def hook(event, arguments):
        writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wxa+")
        if (writes or event in ACTS) and (where := culprit()):
            found.add(f"{where} {event}")

    sys.addaudithook(hook)
    start = threading.Thread.start  # threads raise no audit event before 3.12
    threading.Thread.start = lambda thread: (found.add(f"{where} thread") if (where := culprit()) else None, start(thread))[1]
    for name in names:
        importlib.import_module(name)
    print("\\n".join(sorted(found)))
    """


def effects_of(root: Path, names: Iterable[str]) -> list[str]:
    """What importing these modules does to the world, as `file:line event`."""
    command = [sys.executable, "-c", textwrap.dedent(PROBE), str(root), *names]
    answer = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=100)
    assert answer.returncode == 0, answer.stderr[-2000:]
    return answer.stdout.split("\n")[:-1] if answer.stdout.strip() else []


def test_importing_does_nothing(tmp_path: Path) -> None:
    assert not (found := effects_of(ROOT, [module.name for module in modules_under(*PRODUCT)])), found
    (tmp_path / "planted.py").write_text(
        "import threading, os\nos.mkdir('made')\nthreading.Thread(target=int).start()\n"
    )
    assert [line.split()[1] for line in effects_of(tmp_path, ["planted"])] == ["os.mkdir", "thread"]
