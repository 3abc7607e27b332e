"""What is looked at before a cluster is used: what would lose rows is refused by name, what may is warned about."""

from __future__ import annotations

import logging
import re

from cassandra.cluster import Cluster

from millrace import errors
from svc_storage.adapters.cassandra.session import Session

_log = logging.getLogger(__name__)
OLDEST = (4, 1)
"""The first with Paxos v2; what is tested is 5.0."""
WANTED_COPIES = 3
_WHERE = "see docs/how-to/keep-tables-in-cassandra.md"


def check_server(session: Session) -> None:
    """Blocking. Raises StoreUnavailable for a server too old, or one that only speaks like Cassandra."""
    rows = session.wait("SELECT release_version, cluster_name FROM system.local WHERE key = 'local'")
    version, name = rows[0]
    if name == "Amazon Keyspaces" or _keyspaces(session.cluster):
        raise _refused(
            "Amazon Keyspaces cannot hold tables: a row there is at most 1 MB (a chunk takes 1 MiB), tables cannot be given an id, "
            "and deletes cannot carry a time"
        )
    numbers = tuple(int(part) for part in re.findall(r"\d+", str(version))[:2])
    if numbers < OLDEST:
        raise _refused(f"Cassandra {version} is older than 4.1")
    known = {host.datacenter for host in session.cluster.metadata.all_hosts()}
    if not session.place.datacenter and len(known) > 1:
        raise _refused(
            f"the cluster has several datacenters ({', '.join(sorted(known))}): set MILLRACE_STORAGE_CASSANDRA_DATACENTER"
        )


def copies(session: Session) -> int:
    """Of each row, in a keyspace that is to be made: what was asked for, or one per node up to three.

    Raises StoreUnavailable when there are not as many nodes, or one copy is asked for in a cluster."""
    nodes = _nodes(session)
    asked = session.place.replication or min(WANTED_COPIES, nodes)
    _check_copies(asked, nodes)
    return asked


def check_keyspace(session: Session) -> None:
    """Blocking. Raises StoreUnavailable when the keyspace, as it is, would lose rows with one node."""
    (rows,) = session.wait(
        "SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = ?", session.place.keyspace
    )
    replication = dict(rows[0])
    if not str(replication.get("class", "")).endswith("NetworkTopologyStrategy"):
        raise _refused(f"the keyspace is replicated by {replication.get('class')}, not by NetworkTopologyStrategy")
    datacenter = session.place.datacenter or _only_datacenter(session)
    found = int(replication.get(datacenter, "0").partition("/")[0])
    if not found:
        raise _refused(f"the keyspace has no copies in the datacenter `{datacenter}`")
    _check_copies(found, _nodes(session))
    if session.place.replication and found != session.place.replication:
        _log.warning("the keyspace has %d copies of each row, %d are asked for", found, session.place.replication)
    _check_sync(session, found)


def _check_copies(found: int, nodes: int) -> None:
    if found > nodes:
        raise _refused(f"{found} copies of each row need as many nodes; there are {nodes}")
    if nodes > 1 and found == 1:
        raise _refused("one copy of each row in a cluster of several nodes is lost with any of them: replicate to 3")
    if found == 2:
        _log.warning("two copies of each row: with one node down nothing can be written; 3 are better")


def _check_sync(session: Session, found: int) -> None:
    """`periodic` acknowledges what is only in memory: harmless where other nodes have it too."""
    if found > 1:
        return
    try:
        rows = session.wait("SELECT value FROM system_views.settings WHERE name = 'commitlog_sync'")
    except errors.MillraceError:
        _log.warning("Cassandra does not tell its commitlog_sync: with one copy it must be batch or group. %s", _WHERE)
        return
    if rows and rows[0][0] == "periodic":
        raise _refused(
            "commitlog_sync is periodic on a single node: acknowledged rows are lost when it is killed; set batch or group"
        )


def _nodes(session: Session) -> int:
    datacenter = session.place.datacenter
    return sum(1 for host in session.cluster.metadata.all_hosts() if host.datacenter == datacenter or not datacenter)


def _only_datacenter(session: Session) -> str:
    return str(min(host.datacenter for host in session.cluster.metadata.all_hosts()))


def _keyspaces(cluster: Cluster) -> bool:
    """Its endpoint is one host name; the servers behind it say who made them in a keyspace of their own."""
    return "system_schema_mcs" in cluster.metadata.keyspaces


def _refused(why: str) -> errors.StoreUnavailable:
    return errors.StoreUnavailable(why, hint=_WHERE)
