"""`make test-spark`: Apache Spark with Delta reads a table of ours without Millrace, and ours reads one that Spark wrote.

Outside `make test`: Spark is 400 MB and wants a JDK. What it needs is put into build/spark: pyspark in an environment of its own, Delta's
jars by Maven. Ends 1 when a row differs; 2 where java or mvn is missing.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run as a program, from any folder

from svc_storage.adapters.delta import recovery  # noqa: E402
from svc_storage.adapters.delta.backend import DeltaBackend  # noqa: E402
from svc_storage.adapters.delta.place import LocalPlace  # noqa: E402
from svc_storage.domain.definition import define  # noqa: E402
from svc_storage.domain.versions import LogView  # noqa: E402
from tests.contract.storage.backends import SCHEMA, Rig, incoming  # noqa: E402

PYSPARK, DELTA = "3.5.5", "3.3.1"
PLACE = ROOT / "build" / "spark"
POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>millrace</groupId><artifactId>spark</artifactId><version>1</version><dependencies><dependency>
<groupId>io.delta</groupId><artifactId>delta-spark_2.12</artifactId><version>{DELTA}</version></dependency></dependencies></project>
"""
SPARK = """
import glob, json, sys
from pyspark.sql import SparkSession
jars, ours, theirs = sys.argv[1:]
settings = {
    "spark.jars": ",".join(glob.glob(jars + "/*.jar")), "spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1",
    "spark.ui.enabled": "false", "spark.sql.shuffle.partitions": "1", "spark.sql.session.timeZone": "UTC",
    "spark.databricks.delta.snapshotPartitions": "1", "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
}
builder = SparkSession.builder.master("local[1]")
for name, value in settings.items():
    builder = builder.config(name, value)
spark = builder.getOrCreate()
made = "select id, if(id %% 2 = 0, concat('n', id), null) name, timestamp_micros(id * 1000001) at, cast(id as decimal(10, 2)) price, " \\
    "date'2024-02-29' day from range(%d, %d)"
spark.sql(made % (0, 5)).write.format("delta").save(theirs)
spark.sql(made % (5, 10)).write.format("delta").mode("append").save(theirs)
read = spark.read.format("delta").load(ours).selectExpr("id", "unix_micros(at) at", "price", "status").orderBy("id")
print("ROWS " + json.dumps([list(row) for row in read.collect()]))
spark.stop()
"""


def prepare() -> Path:
    """The Python that has pyspark; jars beside it. Raises CalledProcessError."""
    python = PLACE / "venv" / "bin" / "python"
    PLACE.mkdir(parents=True, exist_ok=True)
    if not (PLACE / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", PLACE / "venv"], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", f"pyspark=={PYSPARK}"], check=True)
        (PLACE / "pom.xml").write_text(POM)
        maven = ["mvn", "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={PLACE / 'jars'}"]
        subprocess.run(maven, cwd=PLACE, check=True)
        (PLACE / "ready").touch()
    return python


async def written(folder: Path) -> tuple[str, list[list[Any]]]:
    """A table of thirty rows in three commits: its folder's name, and the rows as Spark should see them."""
    pool = ThreadPoolExecutor(2)
    rig = Rig(folder, DeltaBackend(folder, pool), pool)
    table = await rig.create(define(SCHEMA, event_time_column="at"))
    stream = await rig.open()
    batches = [incoming(number, 10) for number in range(0, 30, 10)]
    for one in batches:
        await stream.append(one)
        await stream.settle()
    await rig.close()
    rows = [row for one in batches for row in one.rows.to_pylist()]
    epoch = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    micros = [(row["at"] - epoch) // dt.timedelta(microseconds=1) if row["at"] else None for row in rows]
    return table.row.uid, [[row["id"], at, row["price"], row["status"]] for row, at in zip(rows, micros, strict=True)]


def ours_of(folder: Path) -> list[dict[str, Any]]:
    place = LocalPlace(folder)
    recovery.settle(place)
    head = LogView(recovery.read(place)).head
    _, files = DeltaBackend(folder.parent, ThreadPoolExecutor(1)).open(folder.name)
    found = [
        row
        for file in head.files.values()
        for _, batch in files.batches(file, head.schema)
        for row in batch.to_pylist()
    ]
    return sorted(found, key=lambda row: row["id"])


def expected(number: int) -> dict[str, Any]:
    at = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=number * 1_000_001)
    name = None if number % 2 else f"n{number}"
    return {"id": number, "name": name, "at": at, "price": number, "day": dt.date(2024, 2, 29)}


def main() -> int:
    if missing := [tool for tool in ("java", "mvn") if shutil.which(tool) is None]:
        print(
            f"error: no {' and no '.join(missing)} here: as root, `apt-get install default-jre-headless maven`, then again"
        )
        return 2
    python = prepare()
    with tempfile.TemporaryDirectory() as folder:
        theirs = Path(folder) / "theirs"
        uid, rows = asyncio.run(written(Path(folder)))
        command: list[str | Path] = [python, "-c", SPARK, PLACE / "jars", Path(folder) / uid, theirs]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        said = [line for line in answer.stdout.splitlines() if line.startswith("ROWS ")]
        if not said:
            print(f"Spark ended with {answer.returncode}:\n{answer.stderr[-3000:]}")
            return 1
        read = json.loads(said[0].removeprefix("ROWS ")) == rows
        back = ours_of(theirs) == [expected(number) for number in range(10)]
    print(f"Spark {PYSPARK}, Delta {DELTA}: our table read by Spark {'ok' if read else 'DIFFERS'}, {len(rows)} rows")
    print(f"Spark {PYSPARK}, Delta {DELTA}: Spark's table read by us {'ok' if back else 'DIFFERS'}, 10 rows")
    return int(not (read and back))


if __name__ == "__main__":
    sys.exit(main())
