"""What takes minutes or three nodes runs by `make test-storage BACKEND=cassandra|cassandra3`, not in `make test`."""

from __future__ import annotations

import os

_chosen = os.environ.get("TEST_BACKENDS", "").split(",")
collect_ignore = [
    name
    for name, backend in (("test_cassandra_proofs.py", "cassandra"), ("test_cassandra_cluster.py", "cassandra3"))
    if backend not in _chosen
]
