"""Episodes by seed: `python -m tests.chaos [--episodes 100] [--seed 0] [--from A --to B]`. Ends 1 when one failed.

Each episode is one line here and one of JSON in build/chaos.jsonl; once the whole range is there, docs/faults.md gets its tables.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from dataclasses import asdict
from pathlib import Path

from tests.chaos.episode import play, replay_command
from tests.chaos.nursery import Nursery
from tests.chaos.plan import draw
from tests.chaos.postgres import Server
from tests.chaos.report import RESULTS, write

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "build" / "chaos"


async def campaign(first: int, last: int, *, bug: str = "") -> int:
    """Seeds `first` to `last`; how many failed."""
    failed = 0
    RESULTS.parent.mkdir(exist_ok=True)
    with Server() as server, Nursery() as nursery:
        for seed in range(first, last + 1):
            postgres = server.address() if draw(seed).postgres else None
            result = await play(seed, nursery, keep=KEPT, postgres=postgres, bug=bug)
            print(result.line(), flush=True)
            if not bug:
                with RESULTS.open("a") as results:
                    results.write(json.dumps(asdict(result)) + "\n")
            if result.failure:
                failed += 1
                print("\n".join(draw(seed).lines()))
                print(result.failure)
                print(f"kept: {KEPT / f'seed-{seed}'}\nreplay: {replay_command(seed)}", flush=True)
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    parser.add_argument("--from", dest="first", type=int, help="the first seed of a part of the range")
    parser.add_argument("--to", dest="last", type=int, help="the last seed, itself played")
    parser.add_argument("--bug", default="", help="a planted bug (tests/chaos/planted.py): episodes have to fail")
    parser.add_argument("--no-write", action="store_true", help="leave docs/faults.md as it is")
    asked = parser.parse_args()
    first = asked.seed if asked.first is None else asked.first
    last = asked.seed + asked.episodes - 1 if asked.last is None else asked.last
    failed = asyncio.run(campaign(first, last, bug=asked.bug))
    print(f"{last - first + 1} episodes, {failed} failed")
    if not asked.no_write and not asked.bug:
        write(asked.seed, asked.seed + asked.episodes - 1)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
