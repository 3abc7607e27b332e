"""The Dockerfile as data, and a service run as its image would run it: a root of its own that is read-only, the image's user, no rights."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.codebase.tree import ROOT

USER = 10001
_BASE = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/dev", sys.base_prefix)
"""What the base image brings; a folder that this machine lacks is left out."""
_NAMES = ("hosts", "nsswitch.conf", "ld.so.cache")
"""The files of /etc that programs look up names with."""
# In mount and process namespaces of its own: a small root of bind mounts, read-only but for the volumes, then the user without any right.
_ENTER = """
set -eu
root=$1 base=$2 installed=$3 dependencies=$4 settings=$5 home=$6; shift 6
mount --make-rprivate /
mount -t tmpfs -o size=1m,mode=0755 image "$root"
mkdir "$root/tmp" "$root/proc"
mount -t tmpfs -o size=64m,mode=1777 tmp "$root/tmp"  # before the rest: some of what is bound may lie below it
bind() { mkdir -p "$root$2"; mount --bind "$1" "$root$2"; mount -o "remount,bind,$3" "$root$2"; }
for folder in $base; do bind "$folder" "$folder" ro; done
bind "$installed" /opt/millrace ro
bind "$dependencies" "$dependencies" ro
bind "$settings" /etc/millrace ro
bind "$home" /var/lib/millrace rw
mount -t proc proc "$root/proc"
for file in $NAMES; do [ ! -e "/etc/$file" ] || cp "/etc/$file" "$root/etc/$file"; done
mount -o remount,ro "$root"
exec chroot "$root" setpriv --reuid=10001 --regid=10001 --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all \
  env -C /var/lib/millrace "$@"
"""


@dataclass(frozen=True, slots=True)
class Instruction:
    word: str
    rest: str


def instructions(path: Path = ROOT / "Dockerfile") -> list[Instruction]:
    text = re.sub(r"\\\n\s*", "", path.read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [Instruction(*line.split(maxsplit=1)) for line in lines]


def stages(path: Path = ROOT / "Dockerfile") -> tuple[list[Instruction], list[Instruction]]:
    """The instructions of the stage that builds, and of the image."""
    found: list[list[Instruction]] = []
    for one in instructions(path):
        if one.word == "FROM":
            found.append([])
        elif found:
            found[-1].append(one)
    build, image = found
    return build, image


def context(build: list[Instruction], target: Path) -> None:
    """The files that the build stage copies, as git has them, below `target`."""
    wanted = [word for one in build if one.word == "COPY" for word in one.rest.split()[:-1]]
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--", *wanted], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (source := ROOT / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target / name)


def bare_environment(folder: Path, build: list[Instruction], source: Path) -> Path:
    """A virtual environment made by the lines of the build stage; only its dependencies are borrowed from the one that runs this, where the
    same lock installed them."""
    made, wheels = folder / "millrace", folder / "dist"
    subprocess.run([sys.executable, "-m", "venv", made], check=True)
    site = made / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    for old in site.glob("setuptools*"):
        shutil.rmtree(old)  # Python 3.11 brings one; the lock's is newer
    for there in Path(sysconfig.get_paths()["purelib"]).iterdir():
        ours = there.name.startswith(("millrace", "__editable__")) or there.suffix == ".pth"
        if not ours and not (site / there.name).exists():
            (site / there.name).symlink_to(there)
    for one in build:
        if one.word == "RUN" and " -m pip " in one.rest and "--require-hashes" not in one.rest:
            line = one.rest.replace("/opt/millrace", str(made)).replace("/dist", str(wheels))
            answer = subprocess.run(line, shell=True, cwd=source, check=False, capture_output=True, text=True)
            assert answer.returncode == 0, f"{line}: {answer.stdout[-1500:]}{answer.stderr[-1500:]}"
    return made


@dataclass(slots=True)
class Container:
    """One process in its namespaces. `pid`: of the service itself, as this machine counts."""

    outer: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        inside = Path(f"/proc/{self.outer.pid}/task/{self.outer.pid}/children").read_text().split()
        return int(inside[0]) if inside else 0


def run(
    folder: Path, installed: Path, settings: Path, home: Path, command: list[str], env: Mapping[str, str], log: Path
) -> Container:
    """Starts `command` as the image would. `settings` is mounted at /etc/millrace, `home` at /var/lib/millrace."""
    root = folder / "root"
    root.mkdir(exist_ok=True)
    base = " ".join(path for path in dict.fromkeys(_BASE) if Path(path).is_dir())
    mounts = [root, base, installed, sysconfig.get_paths()["purelib"], settings, home]
    with log.open("wb") as output:
        return Container(
            subprocess.Popen(
                ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", _ENTER, "sh", *map(str, mounts), *command],
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "NAMES": " ".join(_NAMES), **env},
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )
        )  # fmt: skip
