"""`millrace get`: what there is. Its YAML is what `apply` reads."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from millrace.cli.grid import grid
from millrace.cli.kinds import KINDS, Kind, KindType, Pipeline, short_name
from millrace.cli.options import Command, Settings, pass_settings
from millrace.cli.running import with_session
from millrace.cli.session import Session
from millrace.cli.terminal import colour, note
from millrace.errors import Missing
from millrace.pipeline.render import part_of, to_yaml

_TABLE_KEYS = ("table", "output", "driving_table")


@click.command(cls=Command)
@click.argument("kind", type=KindType())
@click.argument("name", required=False)
@click.option("-o", "--output", type=click.Choice(["table", "yaml", "json"]), default="table", show_default=True)
@pass_settings
def command(settings: Settings, kind: Kind, name: str | None, output: str) -> None:
    """Show what there is, as a table, YAML or JSON.

    \b
    millrace get tables
    millrace get table flights -o yaml > flights.yaml    # `millrace apply flights.yaml` takes it back
    """
    if output == "yaml" and kind.collection == "runs":
        raise click.UsageError("a run is not declared, so it has no YAML\ntake -o json")

    async def work(session: Session) -> str:
        if name is None:
            things = await kind.listed(session)
        else:
            things = [await kind.get(session, settings.full(kind.collection, name))]
        if output == "yaml":
            return await _yaml(session, things, name)
        if output == "json":
            return _json(things, single=name is not None)
        if not things:
            note(f"there are no {kind.collection} in namespace {settings.namespace}")
            return ""
        return grid(kind.heads, [kind.row(thing) for thing in things], colour=colour(sys.stdout)) + "\n"

    sys.stdout.write(with_session(settings, work))


def _json(things: Sequence[Any], *, single: bool) -> str:
    plain = [_plain(thing) for thing in things]
    return json.dumps(plain[0] if single else plain, indent=2, ensure_ascii=False) + "\n"


def _plain(thing: Any) -> dict[str, Any]:
    if isinstance(thing, Pipeline):
        return {"name": thing.name, "spec": _plain(thing.spec)}
    assert isinstance(thing, Message)
    return dict(MessageToDict(thing, preserving_proto_field_name=True))


async def _yaml(session: Session, things: Sequence[Any], name: str | None) -> str:
    if things and isinstance(things[0], Pipeline):
        if len(things) > 1:
            names = ", ".join(short_name(thing.name) for thing in things)
            raise click.UsageError(f"a file holds one pipeline and there are {len(things)}\nname one: {names}")
        return await _pipeline_yaml(session, things[0])
    return to_yaml(
        _grouped(things, session.settings.namespace), name or "all", session.settings.namespace, kind="Parts"
    )


async def _pipeline_yaml(session: Session, pipeline: Pipeline) -> str:
    """The whole pipeline; what a transform makes and nobody declared is left out, its transform makes it again."""
    spec, found = pipeline.spec, []
    for collection in ("tables", "sources", "transforms", "dashboards"):
        for name in getattr(spec, collection):
            try:
                found.append(await KINDS[collection].get(session, name))
            except Missing:
                note(f"{name} is part of the pipeline and does not exist", "yellow")
    made = {thing.spec.output for thing in found if hasattr(thing, "spec") and hasattr(thing.spec, "output")}
    kept = [thing for thing in found if thing.name not in made]
    return to_yaml(
        _grouped(kept, session.settings.namespace), short_name(pipeline.name), session.settings.namespace,
        title=spec.title, description=spec.description,
    )  # fmt: skip


def _grouped(things: Sequence[Message], namespace: str) -> Mapping[str, Mapping[str, object]]:
    grouped: dict[str, dict[str, object]] = {}
    for thing in things:
        collection, name, value = part_of(thing)
        grouped.setdefault(collection, {})[name] = _with_bare_names(value, namespace)
    return grouped


def _with_bare_names(value: object, namespace: str) -> object:
    """A part whose tables are named as people write them: bare within their namespace."""
    if not isinstance(value, dict):
        return value
    prefix = f"namespaces/{namespace}/tables/"
    return {
        key: text.removeprefix(prefix) if key in _TABLE_KEYS and isinstance(text, str) else text
        for key, text in value.items()
    }
