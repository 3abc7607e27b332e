"""Resources that end by themselves: runs 30 days after their last change, named readers a day after their last move."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from types import MappingProxyType

from millrace.errors import MillraceError
from svc_storage.domain.control.resource_names import Selection
from svc_storage.domain.control.resources import Resources
from svc_storage.ports import Clock

_log = logging.getLogger(__name__)
HOUR_US = 3600 * 1_000_000
KEPT_US: Mapping[str, int] = MappingProxyType({"runs": 30 * 24 * HOUR_US, "readers": 24 * HOUR_US})
_PAGE = 200


class Expiry:
    def __init__(self, resources: Resources, clock: Clock, *, every_s: float = 600.0) -> None:
        self._resources, self._clock, self._every_s = resources, clock, every_s

    async def run(self) -> None:
        """Until cancelled. A fault is logged and tried again next time."""
        while True:
            try:
                await self.sweep()
            except MillraceError as failed:
                _log.warning("resources were not expired: %s", failed.message)
            await asyncio.sleep(self._every_s)

    async def sweep(self) -> int:
        """Once over all; how many ended."""
        ended = 0
        for collection, kept_us in KEPT_US.items():
            since_us = self._clock.now_us() - kept_us
            after_name, more = "", True
            while more:
                page, _ = await self._resources.page(Selection(collection), after_name=after_name, limit=_PAGE)
                for one in page:
                    if one.updated_us < since_us:
                        ended += await self._resources.forget(one.name, unmoved_since_us=since_us)
                more = len(page) == _PAGE
                after_name = page[-1].name if page else ""
        return ended
