"""What the demo's tables must hold, counted by plain DuckDB from its CSV files: the same rules, written down a second time.

    python examples/flights/counts.py .millrace/demo

Prints JSON: rows kept per table, departures by status, and refused lines by reason. DuckDB's reader sets lines aside that have another number of
fields or are no UTF-8; everything else is read as text and judged here, in the order in which Millrace judges: type, NULL, range, enum.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import duckdb

Rules = dict[str, str]

# column -> (DuckDB type, nullable)
FLIGHTS = {
    "year": ("INTEGER", False), "month": ("INTEGER", False), "day": ("INTEGER", False), "dep_time": ("INTEGER", True),
    "sched_dep_time": ("INTEGER", False), "dep_delay": ("DOUBLE", True), "arr_time": ("INTEGER", True),
    "sched_arr_time": ("INTEGER", False), "arr_delay": ("DOUBLE", True), "carrier": ("VARCHAR", False),
    "flight": ("BIGINT", False), "tailnum": ("VARCHAR", True), "origin": ("VARCHAR", False), "dest": ("VARCHAR", False),
    "air_time": ("DOUBLE", True), "distance": ("DOUBLE", False), "hour": ("INTEGER", False), "minute": ("INTEGER", False),
    "time_hour": ("TIMESTAMPTZ", False), "sched_dep": ("TIMESTAMPTZ", False),
}  # fmt: skip
FLIGHT_RANGES = {
    "distance": "distance::DOUBLE >= 0",
    "dep_time": "dep_time::INTEGER BETWEEN 0 AND 2359",
    "arr_time": "arr_time::INTEGER BETWEEN 0 AND 2359",
}
WEATHER = {
    "origin": ("VARCHAR", False), "year": ("INTEGER", False), "month": ("INTEGER", False), "day": ("INTEGER", False),
    "hour": ("INTEGER", False), "temp": ("DOUBLE", True), "dewp": ("DOUBLE", True), "humid": ("DOUBLE", True),
    "wind_dir": ("DOUBLE", True), "wind_speed": ("DOUBLE", True), "wind_gust": ("DOUBLE", True), "precip": ("DOUBLE", True),
    "pressure": ("DOUBLE", True), "visib": ("DOUBLE", True), "time_hour": ("TIMESTAMPTZ", False),
}  # fmt: skip
WEATHER_RANGES = {"wind_speed": "wind_speed::DOUBLE BETWEEN 0 AND 250"}
STATUS = """
CASE WHEN dep_time IS NULL THEN 'cancelled' WHEN dep_delay::DOUBLE > 15 THEN 'late' ELSE 'on_time' END
"""


def judged(
    database: Any, path: Path, columns: dict[str, tuple[str, bool]], ranges: Rules, enums: Rules
) -> dict[str, int]:
    """Makes the table `judged` of the readable lines, each with its `verdict` (NULL: kept). Returns the lines by verdict."""
    names = ", ".join(f"'{name}': 'VARCHAR'" for name in columns)
    types = " OR ".join(f"({n} IS NOT NULL AND TRY_CAST({n} AS {kind}) IS NULL)" for n, (kind, _) in columns.items())
    nulls = " OR ".join(f"{n} IS NULL" for n, (_, nullable) in columns.items() if not nullable)
    outside = " OR ".join(f"({n} IS NOT NULL AND NOT ({rule}))" for n, rule in ranges.items()) or "false"
    unknown = " OR ".join(f"({n} IS NOT NULL AND NOT ({rule}))" for n, rule in enums.items()) or "false"
    database.execute("SET TimeZone = 'UTC'")
    database.execute(f"""
        CREATE OR REPLACE TABLE judged AS
        SELECT *, CASE WHEN {types} THEN 'TYPE' WHEN {nulls} THEN 'NOT_NULL' WHEN {outside} THEN 'RANGE'
                       WHEN {unknown} THEN 'ENUM' END AS verdict
        FROM read_csv('{path}', columns = {{{names}}}, header = true, nullstr = 'NA', ignore_errors = true,
                      auto_detect = false, delim = ',', quote = '"', strict_mode = true, parallel = false)
    """)
    found = database.execute("SELECT verdict, count(*) FROM judged WHERE verdict IS NOT NULL GROUP BY 1").fetchall()
    readable = database.execute("SELECT count(*) FROM judged").fetchone()[0]
    lines = sum(1 for line in path.read_bytes().splitlines()[1:] if line)
    return {**dict(found), "UNREADABLE": lines - readable}


def counts(folder: Path) -> dict[str, Any]:
    """Kept rows and refused lines of the demo's three tables."""
    with duckdb.connect() as database:
        refused = {}
        enums = {"origin": "origin IN ('EWR', 'JFK', 'LGA')"}
        refused["flights"] = judged(database, folder / "flights.csv", FLIGHTS, FLIGHT_RANGES, enums)
        kept = {"flights": database.execute("SELECT count(*) FROM judged WHERE verdict IS NULL").fetchone()[0]}
        query = f"SELECT {STATUS} AS status, count(*) FROM judged WHERE verdict IS NULL GROUP BY 1 ORDER BY 1"
        status = dict(database.execute(query).fetchall())
        delays = database.execute("SELECT sum(dep_delay::DOUBLE) FROM judged WHERE verdict IS NULL").fetchone()[0]
        refused["weather"] = judged(database, folder / "weather.csv", WEATHER, WEATHER_RANGES, {})
        kept["weather"] = database.execute("SELECT count(*) FROM judged WHERE verdict IS NULL").fetchone()[0]
        rows = database.execute(f"SELECT count(*) FROM read_csv('{folder / 'airlines.csv'}')").fetchone()
        kept["airlines"] = rows[0]
    return {"rows": kept, "departures_by_status": status, "minutes_late": delays, "refused": refused}


if __name__ == "__main__":
    print(json.dumps(counts(Path(sys.argv[1])), indent=2))
