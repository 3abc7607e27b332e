"""The stores under the episodes, by name: a new one is one line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager

from tests.chaos.stores.bucket import bucket
from tests.chaos.stores.disk import disk
from tests.chaos.stores.ground import Ground
from tests.chaos.stores.keyspace import one_node, three_nodes

GROUNDS: Mapping[str, Callable[[], AbstractAsyncContextManager[Ground]]] = {
    "local": disk,
    "s3": bucket,
    "cassandra": one_node,
    "cassandra3": three_nodes,
}
