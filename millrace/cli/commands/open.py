"""`millrace open`: the page, with the key that lets a browser in."""

from __future__ import annotations

import sys
import webbrowser

import click

from millrace.cli.options import Command, Settings, pass_settings
from millrace.cli.session import read_endpoints
from millrace.cli.terminal import note


@click.command(cls=Command)
@click.option("--print", "only_print", is_flag=True, help="Only print the address.")
@pass_settings
def command(settings: Settings, only_print: bool) -> None:
    """Open the page in a browser.

    Prints the address on stdout either way; whoever has it may look, so it is not for others' eyes.
    """
    url = read_endpoints(settings.home).url
    print(url)
    if not only_print and sys.stdout.isatty() and not webbrowser.open(url):
        note("no browser answered: open the address by hand")
