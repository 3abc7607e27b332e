"""The Python client: an async core that survives breaks, and a blocking face for programs.

Programs: `from millrace import connect` (blocking) or `Client` (async). Services use the core: `channel.Connection` around any channel,
then `append.Appender`, `read`, `watch`, `resources`, `leases`, `runs`, `query`, `subscribe`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from millrace.client.blocking import BlockingClient as BlockingClient
    from millrace.client.blocking import connect as connect
    from millrace.client.session import Client as Client

__all__ = ["BlockingClient", "Client", "connect"]

_HOMES = {"BlockingClient": "blocking", "Client": "session", "connect": "blocking"}


def __getattr__(name: str) -> Any:
    """Loads what is asked for (PEP 562): a service that uses one module of the core does not load all of them."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"millrace.client.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'millrace.client' has no attribute {name!r}")
