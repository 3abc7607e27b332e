"""What an object store has to show before it is trusted: that it lets us in, that it is ours, and that of several who put an object if
there is none exactly one wins. On a store that only pretends, commits overwrite each other and all report success.
"""

from __future__ import annotations

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from millrace import errors
from svc_storage.adapters.s3.objects import Objects

MARK = "store-id"
RACERS, KEYS = 4, 20


def check(objects: Objects, cluster: str) -> str:
    """Blocking. The store's id, made with its first use. `objects`: the whole prefix.

    Raises StoreUnavailable with one sentence for whoever set it up."""
    next(objects.list(MARK), None)  # the first word with it: tells bad keys and a missing bucket from an empty prefix
    race(objects)
    return claim(objects, cluster)


def race(objects: Objects) -> None:
    """Raises StoreUnavailable when a put if absent has no winner, or more than one."""
    folder = f"preflight/{uuid.uuid4().hex}"
    keys = [f"{folder}/{number}" for number in range(KEYS)]
    entries = [(key, f"{racer}".encode()) for key in keys for racer in range(RACERS)]
    start = Barrier(len(entries))  # all at once: some stores let the losers wait for a second

    def run(entry: tuple[str, bytes]) -> bool:
        start.wait()
        return objects.put_if_absent(*entry)

    try:
        with ThreadPoolExecutor(len(entries), thread_name_prefix="preflight") as pool:
            results = list(pool.map(run, entries))
        for key in keys:
            won = [content for (of, content), first in zip(entries, results, strict=True) if first and of == key]
            if len(won) != 1 or objects.get(key) != won[0]:
                raise _not_conditional(len(won))
        if objects.put_if_absent(keys[0], b"late"):
            raise _not_conditional(2)
    finally:
        objects.delete(keys)


def claim(objects: Objects, cluster: str) -> str:
    """The id in the prefix's mark, put there now if there was none. Raises StoreUnavailable when another cluster has the prefix."""
    fresh = json.dumps({"id": uuid.uuid4().hex, "cluster": cluster}).encode()
    stored = fresh if objects.put_if_absent(MARK, fresh) else objects.get(MARK)
    try:
        mark = json.loads(stored)
        found, owner = str(mark["id"]), str(mark["cluster"])
    except (ValueError, KeyError, TypeError) as damaged:
        raise errors.StoreUnavailable(f"{objects.url}/{MARK} is not the mark of a Millrace store") from damaged
    if owner != cluster:
        raise errors.StoreUnavailable(
            f"{objects.url} belongs to the cluster `{owner}`, this one is `{cluster}`",
            hint="give each cluster a prefix of its own, or the same MILLRACE_STORAGE_CLUSTER to replicas of one",
        )
    return found


def _not_conditional(winners: int) -> errors.StoreUnavailable:
    return errors.StoreUnavailable(
        f"the object store cannot put an object only if there is none: {winners} of {RACERS} won a race that one must win",
        hint="use a store with conditional writes (If-None-Match): Amazon S3, MinIO, SeaweedFS from 4.48 on, versitygw",
    )
