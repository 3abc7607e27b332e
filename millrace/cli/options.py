"""The options that every command takes, before or behind its name."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from millrace.cli.terminal import Interrupted, ReaderGone


@dataclass(slots=True)
class Settings:
    """What the common options say; one object per run, filled while the command line is read."""

    namespace: str = "default"
    home: Path = field(default_factory=lambda: Path(os.environ.get("MILLRACE_HOME") or ".millrace"))
    timeout_s: float | None = None
    """How long one answer may take; None: each call's own default."""
    debug: bool = False

    def full(self, collection: str, name: str) -> str:
        """The full name of what the command line calls `name`."""
        return name if name.startswith("namespaces/") else f"namespaces/{self.namespace}/{collection}/{name}"

    @property
    def parent(self) -> str:
        return f"namespaces/{self.namespace}"


def _keep(attribute: str) -> Callable[[click.Context, click.Parameter, object], None]:
    def callback(ctx: click.Context, param: click.Parameter, value: object) -> None:
        if value is not None and not ctx.resilient_parsing:
            setattr(ctx.find_object(Settings), attribute, value)

    return callback


def _common() -> list[click.Parameter]:
    return [
        click.Option(
            ["-n", "--namespace"], metavar="NAME", expose_value=False, callback=_keep("namespace"),
            help="Namespace of bare names (default: default).",
        ),
        click.Option(
            ["--home"], type=click.Path(file_okay=False, path_type=Path), expose_value=False, callback=_keep("home"),
            help="Where it runs and keeps its data (default: $MILLRACE_HOME or ./.millrace).",
        ),
        click.Option(
            ["--timeout"], type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", expose_value=False,
            callback=_keep("timeout_s"), help="How long one answer may take.",
        ),
        click.Option(
            ["--debug"], is_flag=True, default=None, expose_value=False, callback=_keep("debug"),
            help="Show a traceback when something fails.",
        ),
    ]  # fmt: skip


class CommonOptions(click.Command):
    """Mixed into commands and groups: adds the common options behind their own."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        own = super().get_params(ctx)
        return [*own[:-1], *_common(), *own[-1:]]  # --help stays last


class Command(CommonOptions):
    """A command of `millrace`. Raises ReaderGone when stdout's reader left, and Interrupted on Ctrl-C: click would say
    something of its own."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            answer = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            raise ReaderGone from None
        except KeyboardInterrupt:
            raise Interrupted from None
        return answer


pass_settings = click.make_pass_decorator(Settings)
