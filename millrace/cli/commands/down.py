"""`millrace down`: stops what runs in a home folder."""

from __future__ import annotations

import click

from millrace.cli.options import Command, Settings, pass_settings
from millrace.cli.terminal import note
from millrace.laptop.down import down


@click.command(cls=Command)
@pass_settings
def command(settings: Settings) -> None:
    """Stop what `millrace up` started.

    Services drain first: streams end after a commit, nothing is lost. Stopping what does not run is no error.
    """
    note("stopped" if down(settings.home) else f"nothing runs in {settings.home}")
