"""DSBulk, the loader of Cassandra's vendor, fetched once by Maven as it is set up here, run as a process."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

VERSION = "1.10.0"
PARTS = ("runner", "workflow-load", "connectors-csv", "batcher-reactor", "executor-reactor")
_MAIN = "com.datastax.oss.dsbulk.runner.DataStaxBulkLoader"


def jars() -> Path:
    """Their folder. Raises RuntimeError when Maven cannot get them."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = caches / "millrace" / f"dsbulk-{VERSION}"
    if folder.is_dir():
        return folder
    parts = "".join(
        f"<dependency><groupId>com.datastax.oss</groupId><artifactId>dsbulk-{part}</artifactId><version>{VERSION}</version></dependency>"
        for part in PARTS
    )
    with tempfile.TemporaryDirectory() as temporary:
        pom = Path(temporary) / "pom.xml"
        pom.write_text(
            '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
            "<groupId>dev.millrace</groupId><artifactId>dsbulk</artifactId><version>1</version>"
            f"<dependencies>{parts}</dependencies></project>"
        )
        found = Path(temporary) / "jars"
        command = ["mvn", "-B", "-q", "-f", str(pom), "dependency:copy-dependencies", f"-DoutputDirectory={found}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"Maven could not fetch DSBulk {VERSION}: {done.stdout[-500:]}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(found, folder)
    return folder


def load(csv: Path, keyspace: str, table: str, points: Sequence[str], logs: Path) -> None:
    """Its defaults, but for where things are. Raises RuntimeError with what it said when a row failed."""
    hosts = [point.partition(":")[0] for point in points]
    port = points[0].partition(":")[2] or "9042"
    command = ["java", "-Xmx1g", "-cp", f"{jars()}/*", _MAIN, "load", "-url", str(csv), "-k", keyspace, "-t", table]
    command += ["-header", "true", "-h", ",".join(hosts), "-port", port, "--log.directory", str(logs)]
    command += ["--datastax-java-driver.basic.load-balancing-policy.local-datacenter", "datacenter1", "-maxErrors", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stdout + done.stderr)[-3000:])
