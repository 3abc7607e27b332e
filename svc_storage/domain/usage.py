"""Who uses a table: named readers (for retention) and specs that name it (for deletion). Both are resources.

Storage keeps specs and statuses without reading them; what reads them here comes from outside (`svc_storage.convert.specs`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from svc_storage.domain.resource_names import Selection
from svc_storage.domain.resources import Resources
from svc_storage.ports import Clock, Packed, Resource, Version

READER_KEPT_US = 24 * 3600 * 1_000_000
_PAGE = 500
_USERS = ("sources", "transforms", "dashboards")


@dataclass(frozen=True, slots=True)
class ReaderPlace:
    """All versions of the table up to `version` are read."""

    table_uid: str
    version: Version


class NamedReaders:
    """The `ReaderMarks` of the ports. `place_of`: (spec, status) of a reader, None when they say no place."""

    def __init__(
        self, resources: Resources, place_of: Callable[[Packed | None, Packed | None], ReaderPlace | None], clock: Clock
    ) -> None:
        self._resources, self._place_of, self._clock = resources, place_of, clock

    async def slowest(self, table_uid: str) -> Version | None:
        oldest_us = self._clock.now_us() - READER_KEPT_US
        lowest: Version | None = None
        async for reader in _all(self._resources, "readers"):
            place = self._place_of(reader.spec, reader.status) if reader.updated_us >= oldest_us else None
            if place is not None and place.table_uid == table_uid:
                lowest = place.version if lowest is None else min(lowest, place.version)
        return lowest


class SpecDependents:
    """The `Dependents` of the ports. `names`: (resource, a table's full name), does the spec name the table?"""

    def __init__(self, resources: Resources, names: Callable[[Resource, str], bool]) -> None:
        self._resources, self._names = resources, names

    async def of(self, table: str) -> Sequence[str]:
        return [
            resource.name
            for collection in _USERS
            async for resource in _all(self._resources, collection)
            if self._names(resource, table)
        ]


async def _all(resources: Resources, collection: str) -> AsyncIterator[Resource]:
    after_name = ""
    while True:
        page, _ = await resources.page(Selection(collection), after_name=after_name, limit=_PAGE)
        for resource in page:
            yield resource
        if len(page) < _PAGE:
            return
        after_name = page[-1].name
