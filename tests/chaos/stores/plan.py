"""What happens in an episode over one store: drawn from backend and seed alone."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.chaos.plan import Fate

STEPS = (
    "storage.before_fence",
    "storage.after_parquet_write",
    "storage.after_parquet_fsync",
    "storage.before_commit",
    "storage.after_commit",
    "storage.after_commit_fsync",
    "storage.before_publish",
    "storage.before_ack",
    "storage.before_compact_commit",
    "storage.after_writers_record",
    "storage.after_checkpoint_write",
    "storage.during_trim",
    "storage.during_drop",
)
"""Where storage is killed. Not every store meets each; one that is not met ends in a kill at random."""
LOSABLE = ("CommitLog.append", "ControlStore.run", "TableFiles.write")
THEMES: Mapping[str, tuple[str, ...]] = {
    "memory": ("kills", "lost answers", "stopped"),
    "local": ("steps", "kills", "lost answers", "slow disk", "full disk", "stopped", "network"),
    "s3": ("steps", "kills", "lost answers", "answer dropped", "server killed", "partition", "stopped", "network"),
    "cassandra": ("steps", "kills", "lost answers", "answer dropped", "server killed", "partition", "stopped"),
    "cassandra3": ("server killed", "kills", "partition", "steps"),
}
REPLICAS: Mapping[str, int] = {"memory": 1, "local": 1, "s3": 2, "cassandra": 2, "cassandra3": 2}
EPISODES: Mapping[str, int] = {"memory": 200, "local": 200, "s3": 100, "cassandra": 50, "cassandra3": 20}


@dataclass(frozen=True, slots=True)
class Trouble:
    """`what` happens `at_s` after the writers began, for `seconds`: to the store's server, its network or disk, or to a replica."""

    at_s: float
    what: str
    seconds: float
    whom: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`fates`: per replica, its lives that end early. `writer_deaths`: how often a writer's program dies, over all writers."""

    backend: str
    seed: int
    theme: str
    fates: Sequence[Sequence[Fate]]
    troubles: Sequence[Trouble] = ()
    writers: int = 3
    rows_per_s: int = 250
    least_s: float = 3.0
    writer_deaths: int = 0

    def lines(self) -> list[str]:
        """For people."""
        told = [f"{self.backend} seed {self.seed}: {self.theme}, {self.writers} writers"]
        for number, fates in enumerate(self.fates):
            told += [f"  replica {number}: {fate}" for fate in fates]
        return told + [f"  {trouble}" for trouble in self.troubles]


@dataclass(slots=True)
class _Draft:
    dice: random.Random
    turn: int
    replicas: int
    fates: list[list[Fate]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.fates = [[] for _ in range(self.replicas)]

    def steps(self, count: int) -> None:
        for number in range(count):
            point = STEPS[(self.turn * count + number) % len(STEPS)]
            rare = (
                "compact" in point
                or "trim" in point
                or "drop" in point
                or "writers_record" in point
                or "checkpoint" in point
            )
            hit = self.dice.randint(1, 2 if rare else 4)
            self._any().append(Fate(f"{point}=kill:{hit}", kill_after_s=self.dice.uniform(3.0, 5.0)))

    def kills(self, count: int) -> None:
        for _ in range(count):
            self._any().append(Fate(kill_after_s=self.dice.uniform(0.3, 3.0)))

    def losing(self) -> None:
        # Not the first: that one belongs to the start of the process.
        lost = ",".join(f"{method}:{self.dice.randint(2, 12)}" for method in LOSABLE)
        self._any().append(Fate(lost=lost, kill_after_s=self.dice.uniform(3.0, 4.5)))

    def slow(self) -> None:
        points = self.dice.sample(("storage.after_parquet_write", "storage.before_commit", "storage.after_commit"), 2)
        delays = ",".join(f"{point}=delay:{self.dice.randint(20, 300)}ms" for point in points)
        self._any().append(Fate(delays, kill_after_s=self.dice.uniform(3, 4.5)))

    def _any(self) -> list[Fate]:
        return self.dice.choice(self.fates)


def draw(backend: str, seed: int) -> Plan:
    """The same backend and seed always give the same plan; seeds in a row walk through the themes."""
    themes = THEMES[backend]
    dice = random.Random(f"millrace stores {backend} {seed}")
    theme = themes[seed % len(themes)]
    draft = _Draft(dice, seed // len(themes), REPLICAS[backend])
    troubles: list[Trouble] = []
    longest = 7.5 if theme == "stopped" else 2.5
    match theme:
        case "steps":
            draft.steps(3)
        case "kills":
            draft.kills(3)
        case "lost answers":
            draft.losing()
            draft.losing()
        case "slow disk":
            draft.slow()
            draft.kills(1)
        case _:
            draft.kills(dice.randint(0, 1))
            troubles = [
                Trouble(dice.uniform(0.4, 1.5) + number, theme, dice.uniform(0.5, longest), dice.randrange(8))
                for number in range(1 if theme == "stopped" else 2)
            ]
    return Plan(
        backend=backend,
        seed=seed,
        theme=theme,
        fates=draft.fates,
        troubles=troubles,
        writers=dice.randint(2, 4),
        writer_deaths=dice.randint(0, 2),
    )
