"""The command group. `--help` and a mistyped command load none of the commands: each is imported when it runs."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import click

from millrace import __version__
from millrace.cli.failures import EXIT_INTERRUPTED, nearest_hint, report
from millrace.cli.options import CommonOptions, Settings


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a command lives, and the line that `--help` has for it (a test holds it equal to the command's own)."""

    module: str
    summary: str
    section: str


COMMANDS: dict[str, Entry] = {
    "up": Entry("up", "Start the five services and the demo.", "Run"),
    "down": Entry("down", "Stop what `millrace up` started.", "Run"),
    "status": Entry("status", "Show services, sources, transforms and tables, and what is wrong.", "Run"),
    "explain-freshness": Entry(
        "explain_freshness", "Name the hop that holds a table's data up, with the evidence.", "Run"
    ),
    "open": Entry("open", "Open the page in a browser.", "Run"),
    "token": Entry(
        "token", "Sign a token with some rights, for a person or program that calls this laptop's services.", "Run"
    ),
    "apply": Entry("apply", "Make a pipeline file so.", "Declare"),
    "get": Entry("get", "Show what there is, as a table, YAML or JSON.", "Declare"),
    "delete": Entry("delete", "Delete a table, source, transform, dashboard or pipeline.", "Declare"),
    "load": Entry("load", "Append a CSV, JSON lines or Parquet file to a table, exactly once.", "Rows"),
    "query": Entry("query", "Ask one SELECT.", "Rows"),
    "lookup": Entry("lookup", "Show the rows of some primary keys.", "Rows"),
    "watch": Entry("watch", "Follow a table's versions as they land.", "Rows"),
    "storage": Entry(
        "storage", "Keep tables small, true and lawful: compact, expire, restore, erase, check, export, import.", "Rows"
    ),
    "dead-letters": Entry("dead_letters", "Show the rows that broke a table's contract.", "Rows"),
}


class Lazy(CommonOptions, click.Group):
    """Commands by name, imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if (entry := COMMANDS.get(cmd_name)) is None:
            return None
        module = importlib.import_module(f"millrace.cli.commands.{entry.module}")
        found = module.command
        assert isinstance(found, click.Command)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS:
            hint = nearest_hint(args[0], COMMANDS, otherwise="`millrace --help` lists all commands")
            raise click.UsageError(f"there is no command `{args[0]}`\n{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, entry in COMMANDS.items():
            sections.setdefault(entry.section, []).append((name, entry.summary))
        for section, rows in sections.items():
            with formatter.section(section):
                formatter.write_dl(rows)


@click.group(
    cls=Lazy,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Data goes to stdout, all else to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.",
)
@click.version_option(__version__, "--version", prog_name="millrace", message="%(prog)s %(version)s")
def app() -> None:
    """Rows from their source to a chart, through five streaming services."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code; what went wrong is on stderr."""
    settings = Settings()
    try:
        code = app.main(
            None if arguments is None else list(arguments), prog_name="millrace", standalone_mode=False, obj=settings
        )
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BaseException as error:
        return report(error, debug=settings.debug)


def main() -> None:
    """The console script."""
    sys.exit(run())
