"""Runs a command's work against the services; a name that does not exist gets the nearest one that does."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import TypeVar

from millrace import errors
from millrace.cli.failures import nearest_hint
from millrace.cli.kinds import KINDS
from millrace.cli.options import Settings
from millrace.cli.session import Session, plain_words, read_endpoints
from millrace.client.status import CALL_ERRORS, Unreachable, error_of
from millrace.laptop.down import running_pid

T = TypeVar("T")

_COLLECTIONS = {
    "TABLE_NOT_FOUND": "tables",
    "SOURCE_NOT_FOUND": "sources",
    "TRANSFORM_NOT_FOUND": "transforms",
    "DASHBOARD_NOT_FOUND": "dashboards",
    "RUN_NOT_FOUND": "runs",
    "RESOURCE_NOT_FOUND": "pipelines",
}
_QUOTED = re.compile(r"`([^`]+)`")


def with_session(settings: Settings, work: Callable[[Session], Awaitable[T]]) -> T:
    """Runs `work` in an event loop of its own. Raises millrace.errors."""
    return asyncio.run(within(settings, work))


async def within(settings: Settings, work: Callable[[Session], Awaitable[T]]) -> T:
    """As `with_session`, inside a loop that runs already."""
    session = Session(settings, read_endpoints(settings.home))
    try:
        return await work(session)
    except (*CALL_ERRORS, errors.MillraceError) as error:
        failure = error_of(error)
        await suggest(session, failure)
        raise failure from error
    finally:
        await session.close()


async def suggest(session: Session, error: errors.MillraceError) -> None:
    """Gives a "does not exist" the hint that names what does; stays silent when that cannot be found out."""
    if isinstance(error, Unreachable):
        error.message = plain_words(error)
        home = session.settings.home
        up = f"`millrace status` shows which service is down; its log is in {home / 'logs'}"
        error.hint = up if running_pid(home) > 0 else f"nothing runs in {home} any more: start it with `millrace up`"
    collection = _COLLECTIONS.get(error.reason)
    if collection is None or "did you mean" in error.hint:
        return
    words = [match.rsplit("/", 1)[-1].partition("$")[0] for match in _QUOTED.findall(error.message)]
    try:
        names = [KINDS[collection].short(thing) for thing in await KINDS[collection].listed(session)] if words else []
    except (*CALL_ERRORS, errors.MillraceError):
        names = []
    otherwise = f"`millrace get {collection}` lists all"
    hints = (nearest_hint(word, names, otherwise=otherwise) for word in words)
    error.hint = next((hint for hint in hints if hint != otherwise), otherwise)
