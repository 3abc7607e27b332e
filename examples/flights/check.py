"""Counts what the demo must show, with DuckDB alone and the same rules written down a second time, in SQL.

    python examples/flights/check.py .millrace/demo            prints the counts as JSON
    python examples/flights/check.py .millrace/demo --until 2013-07-08T10:00:00Z

Each line of flights.csv is one flight or one dead letter, with the first reason that holds: ENCODING (not UTF-8; the file is ASCII
otherwise), FIELD_COUNT (not 20 fields), TYPE (a value that is not of its column's type), NOT_NULL, ENUM, RANGE.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import duckdb

INT32, INT64, FLOAT64, TEXT, TIME = "INTEGER", "BIGINT", "DOUBLE", "VARCHAR", "TIMESTAMPTZ"
COLUMNS = (
    ("year", INT32, False),
    ("month", INT32, False),
    ("day", INT32, False),
    ("dep_time", INT32, True),
    ("sched_dep_time", INT32, False),
    ("dep_delay", FLOAT64, True),
    ("arr_time", INT32, True),
    ("sched_arr_time", INT32, False),
    ("arr_delay", FLOAT64, True),
    ("carrier", TEXT, False),
    ("flight", INT64, False),
    ("tailnum", TEXT, True),
    ("origin", TEXT, False),
    ("dest", TEXT, False),
    ("air_time", FLOAT64, True),
    ("distance", FLOAT64, False),
    ("hour", INT32, False),
    ("minute", INT32, False),
    ("time_hour", TIME, False),
    ("sched_dep", TIME, False),
)


def judged(path: Path) -> str:
    """A SELECT of every line with its values and the reason that refuses it, NULL for a good one."""
    lines = (
        f"SELECT line, string_split(line, ',') AS f FROM read_csv('{path}', columns = {{'line': 'VARCHAR'}}, delim = '\x01', "
        "quote = '', escape = '', header = false, skip = 1, encoding = 'latin-1', auto_detect = false)"
    )
    raw = ", ".join(
        f"nullif(nullif(f[{number}], 'NA'), '') AS {name}_raw, try_cast({name}_raw AS {kind}) AS {name}"
        for number, (name, kind, _) in enumerate(COLUMNS, 1)
    )
    untyped = " OR ".join(f"({name}_raw IS NOT NULL AND {name} IS NULL)" for name, _, _ in COLUMNS)
    missing = " OR ".join(f"{name} IS NULL" for name, _, nullable in COLUMNS if not nullable)
    return f"""
        SELECT *, CASE
            WHEN regexp_matches(line, '[^\\x00-\\x7F]') THEN 'ENCODING'
            WHEN len(f) <> {len(COLUMNS)} THEN 'FIELD_COUNT'
            WHEN {untyped} THEN 'TYPE'
            WHEN {missing} THEN 'NOT_NULL'
            WHEN origin NOT IN ('EWR', 'JFK', 'LGA') THEN 'ENUM'
            WHEN distance < 0 OR dep_time NOT BETWEEN 0 AND 2359 OR arr_time NOT BETWEEN 0 AND 2359 THEN 'RANGE'
        END AS reason
        FROM (SELECT line, f, {raw} FROM ({lines}))
    """


def counts(folder: Path, until: str | None = None) -> dict[str, object]:
    """Flights, dead letters by reason, and departures by status. `until`: only flights scheduled before (ISO time)."""
    con = duckdb.connect()
    con.execute("SET TimeZone = 'UTC'")
    con.execute(f"CREATE TEMP TABLE judged AS {judged(folder / 'flights.csv')}")
    before = f"AND sched_dep < TIMESTAMPTZ '{until}'" if until else ""
    good = f"FROM judged WHERE reason IS NULL {before}"
    status = "CASE WHEN dep_time IS NULL THEN 'cancelled' WHEN dep_delay > 15 THEN 'late' ELSE 'on_time' END"
    return {
        "flights": con.sql(f"SELECT count(*) {good}").fetchall()[0][0],
        "dead_letters": dict(
            con.sql("SELECT reason, count(*) FROM judged WHERE reason IS NOT NULL GROUP BY 1 ORDER BY 1").fetchall()
        ),
        "status": dict(con.sql(f"SELECT {status}, count(*) {good} GROUP BY 1 ORDER BY 1").fetchall()),
        "delay_minutes": con.sql(f"SELECT sum(dep_delay) {good}").fetchall()[0][0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Count what the flights demo must show.")
    parser.add_argument("folder", type=Path, help="where prepare.py wrote flights.csv")
    parser.add_argument("--until", help="only flights scheduled before this ISO time")
    options = parser.parse_args()
    print(json.dumps(counts(options.folder, options.until), indent=2))


if __name__ == "__main__":
    main()
