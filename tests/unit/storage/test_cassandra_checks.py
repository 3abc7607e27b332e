"""What a Cassandra cluster is refused for before anything is written there, and what is only warned about."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from millrace.errors import FieldInvalid, StoreUnavailable
from svc_storage.adapters.cassandra import checks, migrations
from svc_storage.adapters.cassandra.session import Place, connect


@dataclass
class Cluster:
    """A session that answers from memory. `nodes`: the datacenter of each."""

    nodes: Sequence[str] = ("dc1", "dc1", "dc1")
    version: str = "5.0.9"
    name: str = "Test"
    keyspaces: Sequence[str] = ()
    replication: dict[str, str] = field(
        default_factory=lambda: {"class": "org.apache.cassandra.locator.NetworkTopologyStrategy", "dc1": "3"}
    )
    sync: str = "periodic"
    place: Place = field(default_factory=lambda: Place(contact_points=("a",)))

    @property
    def cluster(self) -> Any:
        hosts = [SimpleNamespace(datacenter=name) for name in self.nodes]
        return SimpleNamespace(metadata=SimpleNamespace(all_hosts=lambda: hosts, keyspaces=self.keyspaces))

    def wait(self, cql: str, *values: object) -> Sequence[Any]:
        if "system.local" in cql:
            return [(self.version, self.name)]
        if "replication" in cql:
            return [(self.replication,)]
        assert "commitlog_sync" in cql
        return [(self.sync,)]


@pytest.mark.parametrize(
    ("cluster", "why"),
    [
        (Cluster(version="3.11.19"), "Cassandra 3.11.19 is older than 4.1"),
        (Cluster(name="Amazon Keyspaces"), "Amazon Keyspaces cannot hold tables: a row there is at most 1 MB"),
        (Cluster(keyspaces=("system_schema_mcs",)), "Amazon Keyspaces"),
        (Cluster(nodes=("dc1", "dc2")), r"several datacenters \(dc1, dc2\): set MILLRACE_STORAGE_CASSANDRA_DATACENTER"),
    ],
)
def test_a_server_that_will_not_do(cluster: Any, why: str) -> None:
    with pytest.raises(StoreUnavailable, match=why):
        checks.check_server(cluster)


def replicated(copies: str, nodes: int = 3, **more: Any) -> Any:
    return Cluster(nodes=("dc1",) * nodes, replication={"class": "NetworkTopologyStrategy", "dc1": copies}, **more)


@pytest.mark.parametrize(
    ("cluster", "why"),
    [
        (replicated("1"), "one copy of each row in a cluster of several nodes"),
        (replicated("5"), "5 copies of each row need as many nodes; there are 3"),
        (replicated("1", nodes=1), "commitlog_sync is periodic on a single node"),
        (Cluster(replication={"class": "SimpleStrategy", "replication_factor": "3"}), "not by NetworkTopologyStrategy"),
        (replicated("3", place=Place(contact_points=("a",), datacenter="dc9")), "no copies in the datacenter `dc9`"),
    ],
)
def test_a_keyspace_that_would_lose_rows(cluster: Any, why: str) -> None:
    with pytest.raises(StoreUnavailable, match=why):
        checks.check_keyspace(cluster)


def test_what_is_sound_or_only_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        checks.check_server(Cluster())  # type: ignore[arg-type]
        checks.check_keyspace(Cluster())  # type: ignore[arg-type]
        checks.check_keyspace(replicated("1", nodes=1, sync="batch"))
        checks.check_keyspace(replicated("1", nodes=1, sync="group"))
        assert not caplog.messages
        checks.check_keyspace(replicated("2"))
        checks.check_keyspace(replicated("3", nodes=4, place=Place(contact_points=("a",), replication=4)))
    assert [message[:24] for message in caplog.messages] == ["two copies of each row: ", "the keyspace has 3 copie"]


def test_how_many_copies_a_new_keyspace_gets() -> None:
    assert [checks.copies(Cluster(nodes=("dc1",) * nodes)) for nodes in (1, 2, 3, 5)] == [1, 2, 3, 3]  # type: ignore[arg-type]
    with pytest.raises(StoreUnavailable, match="one copy"):
        checks.copies(Cluster(place=Place(contact_points=("a",), replication=1)))  # type: ignore[arg-type]


def test_contact_points_share_a_port() -> None:
    with pytest.raises(FieldInvalid, match="one port"):
        connect(Place(contact_points=("a:9042", "b:9043")))


def test_steps_are_numbered_and_define_tables_alone() -> None:
    found = migrations.steps()
    assert [int(name.partition("_")[0]) for name, _ in found] == list(range(1, len(found) + 1))
    statements = [statement for _, some in found for statement in some]
    assert statements
    assert all(statement.startswith(("CREATE TABLE IF NOT EXISTS ", "ALTER TABLE ")) for statement in statements)
    assert all(";" not in statement and "--" not in statement for statement in statements)
