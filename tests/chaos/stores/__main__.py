"""Episodes over one kind of store: `python -m tests.chaos.stores --backend local [--from A --to B]`. Ends 1 when one failed.

Each episode is one line here and one of JSON in build/stores-<backend>.jsonl. What is there and passed is not played again, so a
campaign goes on where it was broken off; `--again` plays all. Once a backend's range is whole, docs/faults.md gets its table.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from dataclasses import asdict

from tests.chaos.stores.episode import Result, Stage, replay_command
from tests.chaos.stores.plan import EPISODES, THEMES, draw
from tests.chaos.stores.report import passed, results_of, write


async def campaign(backend: str, seeds: list[int]) -> int:
    """How many failed."""
    failed = 0
    results_of(backend).parent.mkdir(exist_ok=True)
    async with Stage(backend) as stage:
        for seed in seeds:
            result: Result = await stage.play(draw(backend, seed))
            print(result.line(), flush=True)
            with results_of(backend).open("a") as results:
                results.write(json.dumps(asdict(result)) + "\n")
            if result.failure:
                failed += 1
                print("\n".join([*draw(backend, seed).lines(), result.failure, f"kept: {result.kept}"]))
                print(f"replay: {replay_command(backend, seed)}", flush=True)
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.stores", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backend", choices=tuple(THEMES), required=True)
    parser.add_argument("--from", dest="first", type=int, default=0)
    parser.add_argument("--to", dest="last", type=int, help="the last seed, itself played")
    parser.add_argument("--again", action="store_true", help="play also what passed before")
    parser.add_argument("--no-write", action="store_true", help="leave docs/faults.md as it is")
    asked = parser.parse_args()
    last = EPISODES[asked.backend] - 1 if asked.last is None else asked.last
    known = set() if asked.again else passed(asked.backend)
    seeds = [seed for seed in range(asked.first, last + 1) if seed not in known]
    failed = asyncio.run(campaign(asked.backend, seeds))
    print(
        f"{asked.backend}: {len(seeds)} episodes, {failed} failed, {last - asked.first + 1 - len(seeds)} had passed before"
    )
    if not asked.no_write:
        write()
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
