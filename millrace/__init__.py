"""Millrace carries data from its source to a chart through five streaming gRPC services.

`from millrace import connect` is all that a program needs; see `millrace.client`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from millrace.client import Client as Client
    from millrace.client import connect as connect

__all__ = ["Client", "connect"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Loads the client, and with it grpc and pyarrow, only for those who ask (PEP 562): servers import `millrace.errors` alone."""
    if name in __all__:
        from importlib import import_module

        return getattr(import_module("millrace.client"), name)
    raise AttributeError(f"module 'millrace' has no attribute {name!r}")
