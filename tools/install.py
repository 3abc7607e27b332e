"""Makes `.venv` and installs one locked set into it: `server` (what runs), `dev` (that and what tests need), or `weed` (the S3 server
of a laptop). `pulumi` goes into `.venv-pulumi`: its SDK and the services need different releases of protobuf.

Runs on whatever Python the machine calls python3, before anything is installed: standard library only. A stamp, written last,
remembers what is installed; `dev` holds all of `server`, so `make up` after `make test` installs nothing. A `.venv` without a
stamp is not rebuilt: pip looks at it and adds what is missing.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENVS = {"pulumi": ROOT / ".venv-pulumi"}
VENV = ROOT / ".venv"
SUPPORTED = (["3", "11"], ["3", "12"], ["3", "13"])
PIP = ("-m", "pip", "--disable-pip-version-check", "install", "--no-compile", "--no-deps", "--no-input")
LOCKED = ("--require-hashes", "--only-binary", ":all:")
BUILT = ("--no-build-isolation",)
STEPS: dict[str, list[tuple[str, ...]]] = {
    "server": [(*LOCKED, "-r", "requirements/server.txt"), (*BUILT, "-e", ".")],
    "dev": [
        (*LOCKED, "-r", "requirements/dev.txt"),
        (*BUILT, "--use-pep517", "--require-hashes", "-r", "requirements/sdist.txt"),
        (*BUILT, "-e", "."),
    ],
    "weed": [(*LOCKED, "-r", "requirements/weed.txt")],
    "pulumi": [(*LOCKED, "-r", "requirements/pulumi.txt")],
}
ENOUGH = {"server": ("server", "dev"), "dev": ("dev",), "weed": ("weed", "dev"), "pulumi": ("pulumi",)}


def venv_of(name: str) -> Path:
    return VENVS.get(name, VENV)


def python_of(name: str) -> Path:
    return venv_of(name) / "bin" / "python"


def key(name: str) -> str:
    """What an installed set depends on; the folder too, because scripts and the editable install name it."""
    parts = [venv_version(venv_of(name)), str(ROOT), (ROOT / "pyproject.toml").read_text()]
    for step in STEPS[name]:
        parts += [(ROOT / word).read_text() for word in step if word.startswith("requirements/")]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def stamp(name: str) -> Path:
    return venv_of(name) / f".installed-{name}"


def installed(name: str) -> bool:
    stamps = ((stamp(enough), enough) for enough in ENOUGH[name])
    return any(path.exists() and path.read_text() == key(enough) for path, enough in stamps)


def refuse(line: str) -> None:
    sys.exit("error: " + line)


def check_python() -> None:
    if platform.python_version().split(".")[:2] not in SUPPORTED:
        refuse(
            f"Millrace needs Python 3.11, 3.12 or 3.13, and {sys.executable} is {platform.python_version()}: "
            "name another, `make up PYTHON=python3.12`"
        )
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        refuse("this Python cannot make virtual environments: as root, `apt-get install python3-venv`, then again")


def venv_version(venv: Path) -> str:
    """Of the Python that `venv` was made with, which need not be the one that runs this; empty where there is none."""
    config = venv / "pyvenv.cfg"
    lines = config.read_text().splitlines() if config.exists() else []
    return next((line.split("=")[1].strip() for line in lines if line.startswith("version")), "")


def usable(name: str) -> bool:
    found = venv_version(venv_of(name)).split(".")[:2]
    asked: list[str] = [str(python_of(name)), "-m", "pip", "--version"]
    return found in SUPPORTED and subprocess.run(asked, capture_output=True).returncode == 0


def pip(python: Path, step: tuple[str, ...]) -> None:
    """Runs one installation; on a terminal a counter moves. Ends with pip's own last lines where it fails."""
    total = 0
    if "-r" in step:
        total = sum(line[:1].isalpha() for line in (ROOT / step[-1]).read_text().splitlines())
    lines: list[str] = []
    process = subprocess.Popen(
        [python, *PIP, *step],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=without_user_site(),
    )
    assert process.stdout is not None
    seen = 0
    for line in process.stdout:
        lines.append(line.rstrip())
        if line.startswith(("Collecting ", "Requirement already satisfied: ", "Ignoring ")):
            seen += 1
            if total and sys.stderr.isatty():
                print(
                    f"\r\033[K  {seen}/{total} {line.split(': ')[-1].split()[-1][:60]}",
                    end="",
                    file=sys.stderr,
                    flush=True,
                )
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    if process.wait():
        print("\n".join(lines[-15:]), file=sys.stderr)
        refuse("pip could not install (its last lines are above): is a package index reachable, is the disk full?")


def without_user_site() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name not in {"PYTHONPATH", "PYTHONHOME", "PIP_USER", "PIP_TARGET"}
    }


def main(name: str) -> None:
    with (ROOT / "requirements" / "server.txt").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two `make` at once install one after the other
        if installed(name) and python_of(name).exists():
            return
        started = time.monotonic()
        venv = venv_of(name)
        if not usable(name):
            check_python()
            print(f"making {venv.name} with Python {platform.python_version()}", file=sys.stderr)
            subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
        print(f"installing the {name} set from requirements/ into {venv.name}", file=sys.stderr)
        for step in STEPS[name]:
            pip(python_of(name), step)
        stamp(name).write_text(key(name))
        print(f"installed in {time.monotonic() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1])
