"""Counts every row of an episode: at its source, in the table, among the dead letters, in the transform's output.

Nothing is taken on trust from one side: rows come through gRPC and, once the services have ended, from the Delta files as any reader finds
them; offsets and positions come from the log.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable

from millrace.client.channel import Connection
from millrace.client.tables import Table
from svc_storage.adapters.delta import recovery
from svc_storage.adapters.delta.place import LocalPlace
from svc_storage.ports import CommitKind, WriterState
from tests.chaos.sources import OUTPUT, TABLE, Account, expected

RECIPE = 'SELECT id, origin, amount * 2 AS doubled, "at" FROM orders WHERE id % 3 <> 0'
_MARK = re.compile(rb"bad-[a-z]+-\d+\.")


@dataclass(slots=True)
class Verdict:
    """`faults`: one sentence per thing that must not be; empty is good. `lost`, `doubled`: rows and dead letters, of table and output."""

    rows: int = 0
    dead_letters: int = 0
    derived: int = 0
    lost: int = 0
    doubled: int = 0
    strangers: int = 0
    compactions: int = 0
    checkpoints: int = 0
    versions: int = 0
    faults: list[str] = field(default_factory=list)

    def compare(self, what: str, found: Sequence[object], wanted: Sequence[object]) -> None:
        """As multisets."""
        have, need = Counter(found), Counter(wanted)
        missing, surplus = need - have, have - need
        doubled = sum(count for one, count in surplus.items() if one in need)
        self.lost += missing.total()
        self.doubled += doubled
        self.strangers += surplus.total() - doubled
        if missing or surplus:
            some = f"missing {list(missing)[:5]}, surplus {list(surplus)[:5]}"
            self.faults.append(
                f"{what}: {missing.total()} lost, {doubled} doubled, {surplus.total() - doubled} strange ({some})"
            )


@dataclass(frozen=True, slots=True)
class Seen:
    """What was read through gRPC. `uids`: by table."""

    rows: pa.Table
    output: pa.Table
    marks: list[str]
    letters: int
    uids: Mapping[str, str]


async def look(connection: Connection) -> Seen:
    """Reads everything the way programs do."""
    table, output = Table(connection, TABLE), Table(connection, OUTPUT)
    letters = await Table(connection, f"{TABLE}$dead_letters").read(columns=["raw"]).to_arrow()
    raw = letters.column("raw").to_pylist()
    return Seen(
        rows=await table.read(columns=["id", "origin", "amount"]).to_arrow(),
        output=await output.read(columns=["id", "origin", "doubled"]).to_arrow(),
        marks=[mark.decode() for one in raw for mark in set(_MARK.findall(one or b""))],
        letters=len(raw),
        uids={TABLE: (await table.info()).uid, OUTPUT: (await output.info()).uid},
    )


def judge(seen: Seen, data: Path, accounts: Sequence[Account], files: Path) -> Verdict:
    """Call when all services have ended."""
    verdict = Verdict(rows=seen.rows.num_rows, dead_letters=seen.letters, derived=seen.output.num_rows)
    wanted = expected(list(accounts))
    _rows(verdict, seen, wanted)
    marks = [mark for account in accounts for mark in account.marks]
    verdict.compare("dead letters", seen.marks, marks)
    if seen.letters != len(marks):
        verdict.faults.append(f"{seen.letters} dead letters for {len(marks)} bad rows")
    folders = {name: data / "tables" / uid for name, uid in seen.uids.items()}
    _files(verdict, folders[TABLE], wanted.column("id"))
    _files(verdict, folders[OUTPUT], _recipe(wanted).column("id"))
    _positions(verdict, folders, accounts, files, seen.uids[TABLE])
    return verdict


def _rows(verdict: Verdict, seen: Seen, wanted: pa.Table) -> None:
    verdict.compare("rows", seen.rows.column("id").to_pylist(), wanted.column("id").to_pylist())
    derived = _recipe(wanted)
    verdict.compare("output", seen.output.column("id").to_pylist(), derived.column("id").to_pylist())
    if verdict.faults:
        return
    if seen.rows.sort_by("id").to_pylist() != wanted.to_pylist():
        verdict.faults.append("rows: the ids are right, values are not")
    if seen.output.sort_by("id").to_pylist() != derived.to_pylist():
        verdict.faults.append("output: the ids are right, values are not")


def _recipe(rows: pa.Table) -> pa.Table:
    """RECIPE, worked out a second time."""
    third = pc.subtract(rows.column("id"), pc.multiply(pc.divide(rows.column("id"), 3), 3))
    kept = rows.filter(pc.not_equal(third, 0))
    return pa.table(
        {"id": kept.column("id"), "origin": kept.column("origin"), "doubled": pc.multiply(kept.column("amount"), 2)}
    )


def _files(verdict: Verdict, folder: Path, ids: pa.ChunkedArray) -> None:
    """The same ids as any Delta reader finds them."""
    found = [
        one
        for uri in DeltaTable(folder).file_uris()
        for one in pq.read_table(uri, columns=["id"]).column("id").to_pylist()
    ]
    if sorted(found) != ids.sort().to_pylist():
        verdict.faults.append(f"{folder.name}: the Delta table has {len(found)} rows, {len(ids)} are right")


def _positions(
    verdict: Verdict, folders: Mapping[str, Path], accounts: Sequence[Account], files: Path, uid: str
) -> None:
    """Each writer stands after exactly the rows it gave, and its position says the same place."""
    tail = recovery.read(LocalPlace(folders[TABLE]))
    writers: dict[str, WriterState] = dict(tail.base.writers)
    for committed in tail.commits:
        writers |= committed.commit.writers
        verdict.compactions += committed.commit.kind is CommitKind.COMPACT
    verdict.versions = tail.commits[-1].version if tail.commits else tail.base.version
    verdict.checkpoints = len(list((folders[TABLE] / "_millrace" / "writers").glob("*.json")))
    verdict.compactions += sum(file.level > 0 for file in tail.base.files.values())
    for account in accounts:
        (name,) = [name for name in writers if account.origin in name] or [""]
        state = writers.get(name, WriterState(0))
        if state.next_offset != account.given:
            verdict.faults.append(f"writer {name!r} stands at {state.next_offset}, {account.given} rows were given")
        if account.origin == "file":
            _at_the_end_of(verdict, files, state)
        if account.origin == "push" and state.positions.get("row") != str(account.given):
            verdict.faults.append(f"writer {name!r} is at {dict(state.positions)}, {account.given} rows were given")
    newest = max((one.version for one in tail.commits if one.commit.rows_added), default=tail.base.version)
    _output_position(verdict, folders[OUTPUT], f"{TABLE}@{uid}", newest, verdict.versions)


def _at_the_end_of(verdict: Verdict, files: Path, state: WriterState) -> None:
    for path in sorted(files.glob("*.csv")):
        place = next((text for name, text in state.positions.items() if path.name in name), "missing")
        if f" {path.stat().st_size} " not in place:
            verdict.faults.append(f"{path.name} has {path.stat().st_size} bytes, its position is {place!r}")


def _output_position(verdict: Verdict, folder: Path, key: str, newest: int, head: int) -> None:
    tail = recovery.read(LocalPlace(folder))
    writers: dict[str, WriterState] = dict(tail.base.writers)
    for committed in tail.commits:
        writers |= committed.commit.writers
    said = [int(state.positions[key]) for state in writers.values() if key in state.positions]
    if len(said) != 1 or not newest <= said[0] <= head:
        verdict.faults.append(f"the output says it has versions {said} of the table, whose rows end at {newest}")
