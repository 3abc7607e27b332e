"""The smallest service that the supervisor can start, for every area: `python -m tests.integration.tiny_service`.

TINY_FATAL=storage: that one cannot start. TINY_DIES=viz: that one ends before it is ready, once the file TINY_DIES_IF exists.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from millrace import errors
from millrace.server.bootstrap import run
from millrace.server.config import AREAS
from millrace.server.runtime import Composition, Runtime, ServiceSpec

AREA = next(area for area in AREAS if f"MILLRACE_{area.upper()}_PORT" in os.environ)


async def compose(_settings: None, runtime: Runtime) -> Composition:
    if os.environ.get("TINY_FATAL") == AREA:
        raise errors.StoreUnavailable("the folder is used by another process, pid 4711")
    if os.environ.get("TINY_DIES") == AREA and Path(os.environ["TINY_DIES_IF"]).exists():
        sys.exit(3)
    if AREA != "storage":
        runtime.channel("storage")
    return Composition(servicers=())


if __name__ == "__main__":
    run(ServiceSpec(name=AREA, settings=lambda _env: None, compose=compose))
