"""Writes docs/reference/cli.md from the commands themselves; `--check` says whether it is fresh."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import click

from millrace.cli.app import COMMANDS, app
from millrace.cli.options import Command, Settings

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "cli.md"
INTRO = """\
# The command line

Written from the commands by `python tools/cli_reference.py`; a test holds it fresh.

    millrace up                                      # five services, the demo, a live page
    millrace query "SELECT origin, count(*) AS flights FROM departures GROUP BY origin"
    millrace watch departures
    millrace dead-letters flights --by-reason

Data goes to stdout, all else (progress, remarks, errors) to stderr. Progress is a bar on a terminal and a line every two
seconds elsewhere; colours appear only on a terminal and not with `NO_COLOR`. A closed pipe (`| head`) ends a command quietly.

An error is two lines, what happened with its reason, and what to do next:

    error: table `ordres` does not exist [TABLE_NOT_FOUND]
    hint: did you mean `orders`? `millrace get tables` lists all

| exit code | means |
| --- | --- |
| 0 | done |
| 1 | failed; stderr says why |
| 2 | wrong usage; nothing was done |
| 130 | interrupted by Ctrl-C |

How values are printed, in every format: decimals with all their digits; instants in ISO 8601 with their offset (`Z` for UTC);
zone-less times without one; durations as seconds (`5400s`); binary as base64; lists, structs and maps as JSON. NULL is `NULL` in a
table (a text that is empty or reads `NULL` is quoted there), nothing at all in CSV (an empty text is `""`), `null` in JSON.
`-o arrow` writes one Arrow IPC stream.

Every command takes these options, before or behind its name:

{common}
"""


def rows(parameters: list[click.Parameter], ctx: click.Context) -> str:
    """Options as a Markdown table."""
    records = [record for one in parameters if (record := one.get_help_record(ctx)) is not None]
    lines = ["| option | |", "| --- | --- |"]
    for names, text in records:
        lines.append("| `{}` | {} |".format(names.replace("|", "\\|"), " ".join(text.split()).replace("|", "\\|")))
    return "\n".join(lines)


def context_of(name: str, command: click.Command) -> click.Context:
    parent = click.Context(app, info_name="millrace", obj=Settings())
    return click.Context(command, info_name=name, parent=parent)


def common_options() -> str:
    ctx = context_of("", Command("none"))
    return rows([one for one in Command("none").get_params(ctx) if "--help" not in one.opts], ctx)


def section(name: str) -> str:
    """One command; a group with its commands behind it."""
    command = app.get_command(click.Context(app, info_name="millrace"), name)
    assert command is not None
    if not isinstance(command, click.Group):
        return described(name, command)
    parts = [described(f"{name} {own}", one).replace("## ", "### ", 1) for own, one in sorted(command.commands.items())]
    return "\n\n".join([described(name, command), *parts])


def described(name: str, command: click.Command) -> str:
    """Usage, what it does, its own options."""
    ctx = context_of(name, command)
    usage = " ".join(command.collect_usage_pieces(ctx))
    help_text = inspect.cleandoc(command.help or "").replace("\b\n", "")
    paragraphs = [
        "\n".join(f"    {line}" for line in block.splitlines()) if block.startswith("millrace ") else block
        for block in help_text.split("\n\n")
    ]
    own = [one for one in command.params if isinstance(one, click.Option)]
    table = "\n\n" + rows(list(own), ctx) if own else ""
    return f"## millrace {name}\n\n    millrace {name} {usage}\n\n" + "\n\n".join(paragraphs) + table


def page() -> str:
    parts = [INTRO.format(common=common_options()), *(section(name) + "\n" for name in COMMANDS)]
    return "\n".join(parts)


def main() -> int:
    fresh = page()
    if "--check" in sys.argv:
        return 0 if PAGE.exists() and PAGE.read_text() == fresh else 1
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(fresh)
    return 0


if __name__ == "__main__":
    sys.exit(main())
