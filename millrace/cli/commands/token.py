"""`millrace token`: a token for somebody else, with some rights only."""

from __future__ import annotations

import re
import sys

import click

from millrace.cli.options import Command, Settings, pass_settings
from millrace.cli.terminal import note
from millrace.laptop.issuer import ROLES, sign

_SCOPE = re.compile(r"\*|[a-z][a-z0-9_]{0,62}(\.[a-z][a-z0-9_]{0,62})?")
_LIFE = re.compile(r"([0-9]{1,5})([mhd])")
_SECONDS = {"m": 60, "h": 3600, "d": 86_400}
MAX_S = 90 * 86_400


@click.command(cls=Command)
@click.argument("grants", nargs=-1, required=True, metavar="SCOPE=ROLE...")
@click.option(
    "--principal", "-p", default="guest", show_default=True, help="Whom the token names, in logs and as owner."
)
@click.option(
    "--for",
    "life",
    default="8h",
    show_default=True,
    metavar="TIME",
    help="How long it lives: 30m, 8h, 7d; at most 90d.",
)
@click.option(
    "--audience", default="millrace", show_default=True, help="What it is for: MILLRACE_AUDIENCE of the services."
)
@pass_settings
def command(settings: Settings, grants: tuple[str, ...], principal: str, life: str, audience: str) -> None:
    """Sign a token with some rights, for a person or program that calls this laptop's services.

    SCOPE is a namespace, one table of it (`sales.orders`) or `*` for all; ROLE is reader, writer, operator or admin.

    Prints the token alone on stdout: send it as `authorization: Bearer TOKEN`, or keep it in a file that MILLRACE_TOKEN_FILE names: then
    this command line and the Python client call with it. What each role may do is in docs/explanation/rights.md.
    """
    rights = _rights(grants)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,127}", principal):
        raise click.BadParameter("letters, digits and ._@- only", param_hint="--principal")
    print(sign(settings.home, principal, rights, _seconds(life), audience))
    said = ", ".join(f"{scope}={'+'.join(roles)}" for scope, roles in rights.items())
    if sys.stdout.isatty():
        note(f"{principal}: {said}, for {life}; whoever has it is {principal}")


def _rights(grants: tuple[str, ...]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for grant in grants:
        scope, _, role = grant.partition("=")
        if not _SCOPE.fullmatch(scope):
            raise click.BadParameter(
                f"`{scope}` is neither a namespace, a namespace.table nor *", param_hint="SCOPE=ROLE"
            )
        if role not in ROLES:
            raise click.BadParameter(f"`{grant}`: the role is one of {', '.join(ROLES)}", param_hint="SCOPE=ROLE")
        found.setdefault(scope, []).append(role)
    return found


def _seconds(life: str) -> int:
    matched = _LIFE.fullmatch(life)
    seconds = int(matched[1]) * _SECONDS[matched[2]] if matched else 0
    if not 0 < seconds <= MAX_S:
        raise click.BadParameter("30m, 8h or 7d, at most 90d", param_hint="--for")
    return seconds
