"""The `millrace` command: data on stdout, all else on stderr, errors with their reason and what to do next."""

from millrace.cli.app import main

__all__ = ["main"]
