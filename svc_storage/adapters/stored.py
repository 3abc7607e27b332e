"""What the services keep as resources, read: all of a collection, and the messages in a spec or a status."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from svc_storage.domain.control.resource_names import Selection
from svc_storage.domain.control.resources import Resources
from svc_storage.ports import Packed, Resource

M = TypeVar("M", bound=Message)
READER_KEPT_US = 24 * 3600 * 1_000_000
"""A named reader that did not move for so long is taken for gone."""
_PAGE = 200


async def every(resources: Resources, collection: str) -> AsyncIterator[Resource]:
    after_name = ""
    while True:
        page, _ = await resources.page(Selection(collection), after_name=after_name, limit=_PAGE)
        for resource in page:
            yield resource
        if len(page) < _PAGE:
            return
        after_name = page[-1].name


def unpacked(packed: Packed | None, into: M) -> M:
    """What is missing, of another type or damaged says nothing."""
    if packed is not None and packed.type_url.rpartition("/")[2] == into.DESCRIPTOR.full_name:
        try:
            into.ParseFromString(packed.value)
        except DecodeError:
            into.Clear()
    return into
