"""Part of the composition root: the stores by name, and the archive. A new backend is one line of `STORES`.

What a backend drives is imported when it is chosen.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from svc_storage.adapters.archive.folder import FolderArchive
from svc_storage.adapters.delta.store import open_local
from svc_storage.adapters.memory.store import open_memory
from svc_storage.config import Settings
from svc_storage.ports import Archive, Store

if TYPE_CHECKING:
    from svc_storage.adapters.s3.credentials import Credentials
    from svc_storage.adapters.s3.objects import Address


async def _s3(settings: Settings) -> Store:
    from svc_storage.adapters.s3.store import open_s3

    return await open_s3(
        *_bucket(settings, settings.s3.url),
        cluster=settings.cluster,
        cache_dir=settings.cache_dir,
        cache_bytes=settings.cache_mb << 20,
        at_once=4 * settings.workers,
    )


async def _cassandra(settings: Settings) -> Store:
    from svc_storage.adapters.cassandra.session import Place
    from svc_storage.adapters.cassandra.store import open_cassandra

    found = settings.cassandra
    place = Place(**{one.name: getattr(found, one.name) for one in fields(found)})
    return await open_cassandra(place, cluster=settings.cluster, at_once=4 * settings.workers)


STORES: Mapping[str, Callable[[Settings, Executor], Awaitable[Store]]] = {
    "local": lambda settings, pool: open_local(settings.data_dir, pool),
    "memory": lambda settings, pool: open_memory(),
    "s3": lambda settings, pool: _s3(settings),
    "cassandra": lambda settings, pool: _cassandra(settings),
}


def archive_of(settings: Settings) -> Archive | None:
    """Where exports go; None: nowhere."""
    if settings.archive.startswith("s3://"):
        from svc_storage.adapters.archive.bucket import BucketArchive
        from svc_storage.adapters.s3.objects import Objects

        return BucketArchive(Objects(*_bucket(settings, settings.archive)))
    return FolderArchive(Path(unquote(urlsplit(settings.archive).path))) if settings.archive else None


def _bucket(settings: Settings, url: str) -> tuple[Address, Credentials]:
    from svc_storage.adapters.s3.credentials import Credentials
    from svc_storage.adapters.s3.objects import Address

    s3 = settings.s3
    return (
        Address.parse(url, endpoint=s3.endpoint, region=s3.region, allow_http=s3.allow_http),
        Credentials(
            s3.access_key,
            s3.secret_key,
            s3.session_token,
            environment={name: value.reveal() for name, value in s3.environment.items()},
        ),
    )
