"""Four bugs, built into storage from outside (planted.py), have to be caught by the episodes: `python -m tests.chaos.bugs`.

Plays episodes with each bug until one fails, at most `--episodes`; ends 1 when a bug was not caught. A checker that cannot fail
proves nothing.
"""

from __future__ import annotations

import argparse
import asyncio

from tests.chaos.episode import play
from tests.chaos.nursery import Nursery
from tests.chaos.plan import draw
from tests.chaos.planted import BUGS

THEMES = ("storage steps", "any moment", "slow disk", "stopped past the lease")
"""The bugs are storage's: episodes in which its kills and epochs matter."""


async def catch(bug: str, nursery: Nursery, episodes: int) -> bool:
    """True once an episode failed because of the bug."""
    seeds = [
        seed for seed in range(2000, 2000 + 10 * episodes) if draw(seed).theme in THEMES and draw(seed).pusher_deaths
    ]
    for number, seed in enumerate(seeds[:episodes], 1):
        result = await play(seed, nursery, bug=bug)
        if result.failure:
            last = result.failure.strip().splitlines()[-1]
            print(
                f"{bug}: caught by episode {number} (seed {seed}, {result.theme}, {result.seconds:.0f} s): {last[:200]}",
                flush=True,
            )
            return True
        print(f"{bug}: not by seed {seed} ({result.theme})", flush=True)
    print(f"{bug}: NOT CAUGHT in {episodes} episodes", flush=True)
    return False


async def catch_all(bugs: list[str], episodes: int) -> bool:
    with Nursery() as nursery:
        return all([await catch(bug, nursery, episodes) for bug in bugs])


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos.bugs", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--episodes", type=int, default=6, help="at most, per bug")
    parser.add_argument("--bug", action="append", choices=BUGS, help="only this one; may be repeated")
    asked = parser.parse_args()
    return 0 if asyncio.run(catch_all(asked.bug or list(BUGS), asked.episodes)) else 1


if __name__ == "__main__":
    raise SystemExit(main())
