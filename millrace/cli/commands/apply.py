"""`millrace apply`: makes pipeline files so."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from millrace.cli.applying import Applied, Applier, Outcome
from millrace.cli.options import Command, Settings, pass_settings
from millrace.cli.progress import Reporter
from millrace.cli.running import with_session
from millrace.cli.session import Session
from millrace.cli.terminal import colour, note, paint
from millrace.pipeline.document import PipelineInvalid, Problem
from millrace.pipeline.spec import Pipeline, read_pipeline

_STYLES = {Outcome.CREATED: "green", Outcome.CHANGED: "yellow", Outcome.RAN: "green", Outcome.UNCHANGED: "dim"}


@click.command(cls=Command)
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, allow_dash=True, path_type=Path))
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@pass_settings
def command(settings: Settings, files: tuple[Path, ...], dry_run: bool) -> None:
    """Make a pipeline file so.

    Files are read and checked whole before anything changes. Then tables, sources that run once, transforms, continuous
    sources and dashboards are created or changed; what is there already is left alone, so applying twice does nothing.
    A folder means its *.yaml files, together one pipeline.
    """
    pipelines = read_all(files, settings.namespace)

    async def work(session: Session) -> None:
        with Reporter() as reporter:
            applier = Applier(session, reporter, lambda applied: print_applied(applied, dry_run), dry_run=dry_run)
            for pipeline in pipelines:
                await applier.apply(pipeline)

    with_session(settings, work)
    if dry_run:
        note("nothing was changed")


def read_all(paths: tuple[Path, ...], namespace: str) -> list[Pipeline]:
    """Every file, and every folder's files as one pipeline, checked; `namespace`: of files that name none.

    Raises PipelineInvalid with the mistakes of all of them."""
    found: list[Pipeline] = []
    problems: list[Problem] = []
    for path in paths:
        files = sorted([*path.glob("*.yaml"), *path.glob("*.yml")]) if path.is_dir() else [path]
        if not files:
            raise click.UsageError(f"no *.yaml lies in {path}")
        try:
            found += _joined([_read(file, namespace) for file in files])
        except PipelineInvalid as error:
            problems += error.problems
    if problems:
        raise PipelineInvalid(problems)
    return found


def _read(path: Path, namespace: str) -> Pipeline:
    name = "stdin" if str(path) == "-" else str(path)
    try:
        text = sys.stdin.read() if name == "stdin" else path.read_text(encoding="utf-8")
        return read_pipeline(text, name, namespace)
    except UnicodeDecodeError as error:
        raise PipelineInvalid([Problem(name, 1, 1, "", "not a text file in UTF-8")]) from error


def _joined(pipelines: list[Pipeline]) -> list[Pipeline]:
    """Loose parts (a dashboard in a file of its own) belong to the one pipeline that lies beside them."""
    named = [one for one in pipelines if one.name]
    if len(named) != 1:
        return pipelines
    (whole,) = named
    loose = [one for one in pipelines if not one.name and one.namespace == whole.namespace]
    for part in loose:
        for collection in ("tables", "sources", "transforms", "dashboards"):
            getattr(whole, collection).extend(getattr(part, collection))
    return [one for one in pipelines if one not in loose]


def print_applied(applied: Applied, dry_run: bool = False) -> None:
    """One line on stdout: "table flights created"."""
    word = {Outcome.CREATED: "would be created", Outcome.CHANGED: "would change"} if dry_run else {}
    said = paint(word.get(applied.outcome, applied.outcome.value), _STYLES[applied.outcome], colour(sys.stdout))
    detail = f"  {applied.detail}" if applied.detail else ""
    print(f"{applied.kind:<10} {applied.name:<24} {said}{detail}", flush=True)
