"""What a run reads, from the output's committed position and the inputs' newest versions.

The position is the only state. Its keys:
    <table>@<uid>        all rows of that input up to this version are in the output
    next:<table>@<uid>   a run to this version is under way: some of its rows may be in the output
    spec                 fingerprint of the recipe that made the output
    offset               the output writer's offset where the run under way began

A run writes `next:` before its first rows when they do not fit into one batch. A worker that dies in between leaves `next:` behind;
the one after it runs the same versions again, which give the same rows in the same order, and leaves out as many as the output
already has.
"""

from __future__ import annotations

from collections.abc import Sequence

from millrace.errors import Unexpected
from svc_transform.ports import Incrementality, InputRange, InputTable, Plan, Positions, Recipe


def plan(
    recipe: Recipe,
    judged: Incrementality,
    inputs: Sequence[InputTable],
    committed: Positions,
    next_offset: int,
    *,
    refresh: bool = False,
) -> Plan:
    """The next run. Empty when nothing is new.

    `committed`: the output's position under this transform's writer; `next_offset`: that writer's offset.
    """
    pinned = {f"{table.name}@{table.uid}": str(table.version) for table in inputs}
    whole = tuple(InputRange(table.name, table.uid, table.version) for table in inputs)
    done = pinned | {"spec": recipe.fingerprint}
    if reason := _refresh_reason(recipe, judged, inputs, committed, refresh):
        first = reason == "FIRST_RUN"
        return Plan(whole, full_refresh=True, replaces_output=not first, reason=reason, position=done)
    if interrupted := _interrupted(recipe, inputs, committed, next_offset):
        return interrupted
    if not committed:
        return Plan(whole, full_refresh=True, reason="FIRST_RUN", position=done)
    if not judged.append_safe:
        return Plan(())  # _refresh_reason found no change
    return _incremental(recipe, inputs, committed, done)


def _refresh_reason(
    recipe: Recipe, judged: Incrementality, inputs: Sequence[InputTable], committed: Positions, refresh: bool
) -> str:
    if not committed:
        return ""
    if refresh:
        return "REQUESTED"
    if committed.get("spec") != recipe.fingerprint:
        return "SPEC_CHANGED"
    known = {key.removeprefix("next:") for key in committed if "@" in key}
    if any(f"{table.name}@{table.uid}" not in known for table in inputs):
        return "TABLE_RECREATED"
    if not judged.append_safe and not any(key.startswith("next:") for key in committed):
        changed = any(committed.get(f"{table.name}@{table.uid}") != str(table.version) for table in inputs)
        return "NOT_INCREMENTAL" if changed else ""
    return ""


def _interrupted(recipe: Recipe, inputs: Sequence[InputTable], committed: Positions, next_offset: int) -> Plan | None:
    under_way = {key.removeprefix("next:"): value for key, value in committed.items() if key.startswith("next:")}
    if not under_way:
        return None
    began = int(committed["offset"])
    if next_offset < began:
        raise Unexpected(f"the output's offset {next_offset} lies before the run's start {began}")
    ranges = []
    for table in inputs:
        key = f"{table.name}@{table.uid}"
        after = committed.get(key) if _drives(recipe, table, inputs) else None
        ranges.append(InputRange(table.name, table.uid, int(under_way[key]), None if after is None else int(after)))
    return Plan(
        tuple(ranges),
        full_refresh=all(range.after_version is None for range in ranges),
        reason="INTERRUPTED",
        skip=next_offset - began,
        position=under_way | {"spec": recipe.fingerprint},
    )


def _drives(recipe: Recipe, table: InputTable, inputs: Sequence[InputTable]) -> bool:
    return table.name == recipe.driving_table or len(inputs) == 1


def _incremental(recipe: Recipe, inputs: Sequence[InputTable], committed: Positions, done: dict[str, str]) -> Plan:
    driving = next(table for table in inputs if _drives(recipe, table, inputs))
    after = int(committed[f"{driving.name}@{driving.uid}"])
    if driving.version <= after:
        return Plan(())  # joined tables that grew alone change no row that is already out
    ranges = tuple(
        InputRange(table.name, table.uid, table.version, after if table is driving else None) for table in inputs
    )
    return Plan(ranges, position=done)
