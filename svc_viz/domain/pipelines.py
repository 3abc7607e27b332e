"""The pipeline for people: the strip of stages above a dashboard, the live dot, the overview's cards."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from svc_viz.domain.numbers import number_text
from svc_viz.domain.zones import clock_text, day_text
from svc_viz.ports import PipelineFacts, SourceFacts, TableFacts, TransformFacts, World

TROUBLE = frozenset({"backing_off", "paused"})


def pipeline_of(world: World, dashboard: str) -> tuple[str, PipelineFacts]:
    """The pipeline that names a dashboard; an unnamed one of everything when none does."""
    for name, facts in sorted(world.pipelines.items()):
        if dashboard in facts.dashboards:
            return name, facts
    return "", PipelineFacts(
        tables=tuple(sorted(world.tables)),
        sources=tuple(sorted(world.sources)),
        transforms=tuple(sorted(world.transforms)),
    )


def fresh(world: World, transform: TransformFacts) -> bool:
    """True when the output covers every input's newest version."""
    known = [
        (world.tables[name].version, version) for name, version in transform.inputs.items() if name in world.tables
    ]
    return transform.state not in TROUBLE and all(covered >= newest - 1 for newest, covered in known)


def strip(
    world: World, dashboard: str, table: str, subscriptions: int, rows_shown: int, trouble: str
) -> list[dict[str, Any]]:
    """extract → storage → transform → analysis → viz: a number each, a state, a sentence for who hovers."""
    _, pipeline = pipeline_of(world, dashboard)
    sources = [world.sources[name] for name in pipeline.sources if name in world.sources]
    transforms = [world.transforms[name] for name in pipeline.transforms if name in world.transforms]
    facts = world.tables.get(table, TableFacts())
    behind = sum(not fresh(world, one) for one in transforms)
    return [
        _stage("extract", *_extract(sources)),
        _stage(
            "storage",
            f"version {number_text(facts.version)}",
            world.unreachable and "bad",
            world.unreachable or _storage_hint(facts),
        ),
        _stage(
            "transform",
            _transforms_text(len(transforms), behind),
            "warn" if behind else "",
            "; ".join(filter(None, (one.cause for one in transforms))) or "outputs cover their inputs' newest version",
        ),
        _stage(
            "analysis",
            f"{subscriptions} subscription{'' if subscriptions == 1 else 's'}",
            trouble and "bad",
            trouble or "live questions behind this page",
        ),
        _stage("viz", f"{number_text(rows_shown)} rows", "", f"rows of {table.rsplit('/', 1)[-1]} behind this page"),
    ]


def _transforms_text(count: int, behind: int) -> str:
    if not count:
        return "none"
    if not behind:
        return "up to date"
    return "catching up" if count == 1 else f"{behind} of {count} catching up"


def _stage(name: str, value: str, state: str, hint: str) -> dict[str, Any]:
    return {"name": name, "value": value, "state": state, "hint": hint}


def _extract(sources: list[SourceFacts]) -> tuple[str, str, str]:
    if not sources:
        return "no source", "", "no source feeds this dashboard"
    bad = [one for one in sources if one.state in TROUBLE]
    activity = next((one.activity for one in sources if one.activity), "")
    if bad:
        return bad[0].state.replace("_", " "), "bad", bad[0].cause or "a source has stopped"
    if all(one.state == "finished" for one in sources):
        return "finished", "", activity or "the sources have reached their end"
    rate = sum(one.rows_per_second for one in sources if one.state == "running")
    if rate <= 0:
        return (activity if 0 < len(activity) <= 24 else "idle"), "", activity or "nothing to read right now"
    return (
        f"{number_text(round(rate))} rows/s",
        "",
        activity or f"{len(sources)} source{'' if len(sources) == 1 else 's'}",
    )


def _storage_hint(facts: TableFacts) -> str:
    return f"{number_text(facts.row_count)} rows, {number_text(facts.dead_letters)} dead letters"


def live_dot(
    world: World, dashboard: str, table: str, zone: str, trouble: str, seen: datetime | None
) -> dict[str, Any]:
    """`seen`: the newest event time on the page; the dot says live, idle, finished or stale, and always with a word."""
    _, pipeline = pipeline_of(world, dashboard)
    sources = [world.sources[name] for name in pipeline.sources if name in world.sources]
    high = seen or world.tables.get(table, TableFacts()).event_time_high
    text = clock_text(high, zone) if high else "no data yet"
    if trouble or world.unreachable:
        return {"state": "stale", "word": "Stale", "text": text, "hint": trouble or world.unreachable}
    if any(one.state in TROUBLE for one in sources):
        return {
            "state": "warn",
            "word": "Stopped",
            "text": text,
            "hint": next(one.cause for one in sources if one.state in TROUBLE),
        }
    if sources and all(one.state == "finished" for one in sources):
        return {
            "state": "idle",
            "word": "Finished",
            "text": text,
            "hint": next((one.activity for one in sources if one.activity), "all rows are in"),
        }
    return {
        "state": "live",
        "word": "Live",
        "text": text,
        "hint": next((one.activity for one in sources if one.activity), "follows every new version"),
    }


def overview(world: World, zone: str) -> dict[str, Any]:
    """Every pipeline with its tables, and the dashboards."""
    known = {name for facts in world.pipelines.values() for name in facts.tables}
    known |= {name for name in world.tables if "$" in name}  # a table's dead letters are a number of that table
    groups = [(name, facts) for name, facts in sorted(world.pipelines.items())]
    if loose := tuple(sorted(set(world.tables) - known)):
        groups.append(("", PipelineFacts(title="Other tables", tables=loose)))
    return {
        "pipelines": [_pipeline_card(world, name, facts, zone) for name, facts in groups],
        "dashboards": [
            {"path": one.path, "title": one.spec.title, "description": one.spec.description, "owner": one.owner}
            for _, one in sorted(world.dashboards.items())
        ],
        "unreachable": world.unreachable,
    }


def _pipeline_card(world: World, name: str, facts: PipelineFacts, zone: str) -> dict[str, Any]:
    sources = [(one, world.sources[one]) for one in facts.sources if one in world.sources]
    transforms = [(one, world.transforms[one]) for one in facts.transforms if one in world.transforms]
    states = [(of.state, of.cause) for _, of in sources] + [(of.state, of.cause) for _, of in transforms]
    bad = [cause for state, cause in states if state in TROUBLE]
    return {
        "name": _last(name),
        "title": facts.title or _last(name),
        "description": facts.description,
        "state": "bad" if bad else "ok",
        "note": bad[0] if bad else "",
        "sources": [
            {
                "name": _last(one),
                "state": of.state.replace("_", " "),
                "note": of.cause or of.activity,
                "rate": f"{number_text(round(of.rows_per_second) if of.state == 'running' else 0)} rows/s",
            }
            for one, of in sources
        ],
        "transforms": [
            {"name": _last(one), "state": "fresh" if fresh(world, of) else of.state.replace("_", " "), "note": of.cause}
            for one, of in transforms
        ],
        "tables": [_table_row(one, world.tables[one], zone) for one in facts.tables if one in world.tables],
    }


def _table_row(name: str, facts: TableFacts, zone: str) -> dict[str, Any]:
    return {
        "name": _last(name),
        "version": number_text(facts.version),
        "rows": number_text(facts.row_count),
        "dead": number_text(facts.dead_letters),
        "event_time": day_text(facts.event_time_high, zone) if facts.event_time_high else "–",
        "commit_ms": facts.commit_time.timestamp() * 1000 if facts.commit_time else None,
    }


def _last(name: str) -> str:
    return name.rsplit("/", 1)[-1]
