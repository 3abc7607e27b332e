"""How a command fails: one line with the reason, one line that says what to do next, and an exit code. Never a traceback."""

from __future__ import annotations

import difflib
import os
import sys
import traceback
from collections.abc import Iterable

import click

from millrace import errors
from millrace.cli.terminal import Interrupted, ReaderGone, colour, escaped, paint

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

_BY_FAMILY: tuple[tuple[type[errors.MillraceError], str], ...] = (
    (errors.RetryLater, "try again in a moment; `millrace status` shows what is wrong"),
    (errors.OutcomeUnknown, "it may have happened: look before you repeat it"),
    (errors.Reload, "it changed meanwhile: look at it again, then repeat"),
    (errors.Broken, "`millrace status` shows the last errors; the services' logs are in the home folder under logs/"),
)
_BY_REASON = {
    "TOKEN_INVALID": "is this the home folder of the services that run? `--home` names another",
    "TABLE_NOT_FOUND": "`millrace get tables` lists all",
    "SOURCE_NOT_FOUND": "`millrace get sources` lists all",
    "TRANSFORM_NOT_FOUND": "`millrace get transforms` lists all",
    "DASHBOARD_NOT_FOUND": "`millrace get dashboards` lists all",
    "RUN_NOT_FOUND": "`millrace get runs` lists all",
    "VERSION_EXPIRED": "leave the version out to read the newest",
    "SQL_INVALID": "mend the SQL: one SELECT over tables by name, without files, settings or other functions than the listed",
    "RESULT_TOO_LARGE": "narrow it: a WHERE, a LIMIT, or fewer columns",
}


class Failed(errors.MillraceError):
    """A failure that the command line itself saw; the reason is per instance."""

    def __init__(self, message: str, *, reason: str, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.shown_reason = reason


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that `word` probably means, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return close[0] if close else ""


def nearest_hint(word: str, known: Iterable[str], *, otherwise: str) -> str:
    """ "did you mean `x`? `otherwise`", or `otherwise` alone."""
    close = nearest(word, known)
    return f"did you mean `{close}`? {otherwise}" if close else otherwise


def report(error: BaseException, *, debug: bool) -> int:
    """Says on stderr what happened, in two lines, and returns the exit code."""
    if isinstance(error, ReaderGone | BrokenPipeError):
        _close_stdout()
        return 0
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else EXIT_FAILED
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, click.Abort | Interrupted | KeyboardInterrupt):
        return EXIT_INTERRUPTED
    if isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        return report(error.exceptions[0], debug=debug)
    if debug:
        traceback.print_exception(error)
    message, reason, hint = explain(error)
    _print(message, reason, hint)
    return EXIT_USAGE if isinstance(error, click.UsageError) else EXIT_FAILED


def explain(error: BaseException) -> tuple[str, str, str]:
    """(what happened, reason, what to do next) of anything that can leave a command."""
    if isinstance(error, click.ClickException):
        return _explain_usage(error)
    if isinstance(error, Failed):
        return error.message, error.shown_reason, error.hint
    if isinstance(error, errors.MillraceError):
        return _explain_millrace(error)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}", "FILE", "check the path and its permissions"
    return (
        f"a bug in millrace ({type(error).__name__})", "UNEXPECTED",
        "`--debug` shows where; please report it with the command you typed",
    )  # fmt: skip


def _explain_usage(error: click.ClickException) -> tuple[str, str, str]:
    message, _, hint = error.format_message().partition("\n")
    ctx = getattr(error, "ctx", None)
    path = ctx.command_path if ctx is not None else "millrace"
    message = message.rstrip(".")
    return message[:1].lower() + message[1:], "USAGE", hint or f"`{path} --help` shows how"


def _explain_millrace(error: errors.MillraceError) -> tuple[str, str, str]:
    message = error.message
    if error.field and error.field not in message:
        message = f"{message} (field {error.field})"
    others = [text for field, text in error.violations if text and text != error.message]
    if others:
        message = "; ".join([message, *others])
    hint = error.hint or _BY_REASON.get(error.reason, "")
    if not hint:
        hint = next(
            (text for family, text in _BY_FAMILY if isinstance(error, family)), "mend what it names and repeat it"
        )
    return message, error.reason, hint


def _print(message: str, reason: str, hint: str) -> None:
    coloured = colour(sys.stderr)
    lines = message.split("\n")
    first = f"{paint('error:', 'red', coloured)} {escaped(lines[0])} [{reason}]"
    rest = [f"  {escaped(line)}" for line in lines[1:]]
    last = f"{paint('hint:', 'cyan', coloured)} {escaped(hint)}"
    try:
        print("\n".join([first, *rest, last]), file=sys.stderr)
    except BrokenPipeError:
        return


def _close_stdout() -> None:
    """Python flushes stdout once more when it ends; into nowhere, so that nobody complains."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
