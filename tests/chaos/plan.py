"""What happens in an episode: all of it is drawn here, from the seed alone."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

POINTS: Mapping[str, tuple[str, ...]] = {
    "storage": (
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
        "storage.after_checkpoint_fsync",
        "storage.during_trim",
        "storage.before_catalog_commit",
        "storage.after_catalog_commit",
        "storage.after_create_folder",
    ),
    "extract": (
        "extract.before_open",
        "extract.after_open",
        "extract.after_read",
        "extract.after_append",
        "extract.before_finish",
        "extract.after_finish",
    ),
    "transform": (
        "transform.before_run",
        "transform.before_commit",
        "transform.after_commit",
        "transform.after_started",
        "transform.after_batch",
    ),
}
"""Every durable step has one before and one after it. tests/chaos/test_harness.py compares this with the source."""

OF_THE_CONTROL_LOG = (
    "storage.before_control_snapshot",
    "storage.after_control_snapshot",
    "storage.after_control_trim",
)
"""Met once in a thousand changes of a catalog that several replicas share: test_control_kill.py has them met more often."""

OF_OWN_TESTS = {
    "storage.before_schema": "tests/contract/storage/test_schema.py",
    "storage.after_schema": "tests/contract/storage/test_schema.py",
    "storage.before_merge_rewrite": "tests/chaos/test_merge_kill.py",
    "storage.before_swap": "tests/chaos/test_maintenance_kill.py",
    "storage.before_restore_commit": "tests/chaos/test_maintenance_kill.py",
    "storage.before_export_receipt": "tests/chaos/test_transfer_kill.py",
    "storage.before_manifest": "tests/chaos/test_transfer_kill.py",
    "storage.before_import_commit": "tests/chaos/test_transfer_kill.py",
    "storage.before_key_table_complete": "tests/contract/storage/test_key_tables.py",
    "storage.during_drop": "tests/chaos/stores/plan.py",
}
"""Steps that an episode does not take: the test that kills there."""

ONCE = frozenset(
    {
        "storage.after_create_folder",
        "storage.before_compact_commit",
        "storage.during_trim",
        "extract.before_open",
        "extract.after_open",
        "extract.before_finish",
        "extract.after_finish",
    }
)
"""Met a few times in a life only: killed at the first or second meeting."""
DELAYS = (
    "storage.after_parquet_write",
    "storage.before_commit",
    "storage.after_commit",
    "storage.before_ack",
    "storage.after_checkpoint_write",
    "storage.before_catalog_commit",
)
LOSABLE: Mapping[str, tuple[str, ...]] = {
    "storage": ("CommitLog.append", "ControlStore.run", "TableFiles.write"),
    "extract": ("Sink.open", "Appender.append", "Appender.flush", "Catalog.save"),
    "transform": ("Outputs.open", "Output.write", "Output.commit"),
}
THEMES = (
    "storage steps",
    "extract steps",
    "transform steps",
    "any moment",
    "stopped past the lease",
    "network",
    "lost answers",
    "slow disk",
    "database",
    "everything",
)


@dataclass(frozen=True, slots=True)
class Fate:
    """How one life of a process goes: what its failpoints do, which answers get lost, and when it is killed if it still lives then
    (seconds after it was ready; None: it is not)."""

    failpoints: str = ""
    lost: str = ""
    kill_after_s: float | None = None

    @property
    def point(self) -> str:
        """The failpoint that kills it, if one does."""
        return next((part.split("=")[0] for part in self.failpoints.split(",") if "=kill" in part), "")


@dataclass(frozen=True, slots=True)
class Trouble:
    """On the way of `who` to storage, `at_s` after the start: "cut", "half-open" or "delay", for `seconds`."""

    at_s: float
    who: str
    what: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`pusher_deaths`: how often the program that pushes dies without `finish`. `replaced`: the source's spec is changed that often, which
    ends its session."""

    seed: int
    theme: str
    fates: Mapping[str, tuple[Fate, ...]]
    troubles: tuple[Trouble, ...] = ()
    zombie: bool = False
    postgres: bool = False
    pusher_deaths: int = 0
    replaced: int = 0
    rows_per_s: int = 400

    def lines(self) -> list[str]:
        """For people."""
        told = [f"seed {self.seed}: {self.theme}"]
        for area, fates in self.fates.items():
            told += [
                f"  {area}: {fate.failpoints or '-'} lost {fate.lost or '-'} kill after {fate.kill_after_s} s"
                for fate in fates
            ]
        told += [f"  network: {one}" for one in self.troubles]
        return told


@dataclass(slots=True)
class _Draft:
    dice: random.Random
    turn: int  # how often this theme came before: walks through the points
    fates: dict[str, list[Fate]] = field(default_factory=lambda: {"storage": [], "extract": [], "transform": []})

    def at_points(self, area: str, count: int) -> None:
        points = POINTS[area]
        for number in range(count):
            point = points[(self.turn * count + number) % len(points)]
            hit = self.dice.randint(1, 2 if point in ONCE else 4 if area == "storage" else 3)
            # A worker first waits until the lease of the one before has run out.
            patience_s = self.dice.uniform(5, 7) + (0 if area == "storage" else 7)
            fate = Fate(f"{point}=kill:{hit}", kill_after_s=patience_s)
            # Tables are made at the very beginning only.
            self.fates[area].insert(0 if point == "storage.after_create_folder" else len(self.fates[area]), fate)

    def at_random(self, area: str, count: int) -> None:
        for _ in range(count):
            self.fates[area].append(Fate(kill_after_s=self.dice.uniform(0.1, 3.0)))

    def losing(self, area: str) -> None:
        # Not the first: that one belongs to the start, which then ends with one FATAL line, and a supervisor starts it again.
        lost = ",".join(f"{method}:{self.dice.randint(2, 9)}" for method in LOSABLE[area])
        self.fates[area].append(Fate(lost=lost, kill_after_s=self.dice.uniform(3.5, 5.0)))

    def slow(self) -> None:
        points = self.dice.sample(DELAYS, 2)
        delays = ",".join(f"{point}=delay:{self.dice.randint(20, 250)}ms" for point in points)
        kill = f",{self.dice.choice(POINTS['storage'][:8])}=kill:{self.dice.randint(2, 6)}"
        self.fates["storage"].append(Fate(delays + kill, kill_after_s=self.dice.uniform(3, 5)))

    def troubles(self, count: int) -> tuple[Trouble, ...]:
        return tuple(
            Trouble(
                self.dice.uniform(0.5, 6.0),
                self.dice.choice(("pusher", "extract", "transform")),
                self.dice.choice(("cut", "cut", "half-open", "delay")),
                self.dice.uniform(0.5, 3.0),
            )
            for _ in range(count)
        )


def draw(seed: int) -> Plan:
    """The same seed always gives the same plan; ten seeds in a row give the ten themes."""
    dice = random.Random(f"millrace {seed}")
    theme = THEMES[seed % len(THEMES)]
    draft = _Draft(dice, seed // len(THEMES))
    extra: dict[str, object] = {"pusher_deaths": dice.randint(0, 2)}
    if theme == "storage steps":
        draft.at_points("storage", 4)
    elif theme == "extract steps":
        draft.at_points("extract", 2)
        draft.at_random("storage", 1)
        extra["replaced"] = 3
    elif theme == "transform steps":
        draft.at_points("transform", 2)
        draft.at_random("storage", 1)
    elif theme == "any moment":
        for area, count in (("storage", 3), ("extract", 1), ("transform", 1)):
            draft.at_random(area, count)
    elif theme == "stopped past the lease":
        extra["zombie"] = True
        draft.at_random("storage", dice.randint(0, 1))
    elif theme == "network":
        extra["troubles"] = draft.troubles(5)
        draft.at_random("storage", 1)
    elif theme == "lost answers":
        for area in draft.fates:
            draft.losing(area)
    elif theme == "slow disk":
        draft.slow()
        draft.slow()
    elif theme == "database":
        extra["postgres"] = True
        draft.at_points("storage", 1)
        draft.at_random("extract", 1)
    else:
        draft.at_points("storage", 2)
        draft.losing("storage")
        draft.at_points("extract", 1)
        draft.at_points("transform", 1)
        extra |= {"troubles": draft.troubles(2), "pusher_deaths": 1, "replaced": 1}
    return Plan(seed=seed, theme=theme, fates={area: tuple(fates) for area, fates in draft.fates.items()}, **extra)  # type: ignore[arg-type]
