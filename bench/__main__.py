"""`python -m bench [ID …]`: runs the measurements named, or all."""

from __future__ import annotations

import importlib
import sys

MEASUREMENTS = {
    "p2": "bench.p2_append",
    "p2-cassandra": "bench.p2_cassandra",
    "p2-s3": "bench.p2_s3",
    "lookups": "bench.lookups",
    "p3": "bench.p3_chunks",
    "p4": "bench.p4_native",
    "p6": "bench.p6_query",
    "hour": "bench.hour",
    "catalog": "bench.catalog",
    "p10": "bench.p10_scale",
}


def main(wanted: list[str]) -> int:
    if unknown := set(wanted) - set(MEASUREMENTS):
        print(f"error: no measurement `{unknown.pop()}`; there are {', '.join(MEASUREMENTS)}", file=sys.stderr)
        return 2
    for name in wanted or MEASUREMENTS:
        print(f"{name}: {MEASUREMENTS[name]}", file=sys.stderr)
        importlib.import_module(MEASUREMENTS[name]).main()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
