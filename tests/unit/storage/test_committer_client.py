"""How one replica of storage calls another."""

from __future__ import annotations

import asyncio

import pytest

from millrace.errors import StoreUnavailable
from millrace.server.settings import Secret
from millrace.server.telemetry import start_telemetry
from svc_storage.adapters.committer_client import CommitClient
from svc_storage.ports import Commit, CommitKind, Proposal, TableRow

SETTINGS = bytes.fromhex("000000040000000000")
"""The frame that begins an HTTP/2 connection from the server's side."""


@pytest.mark.parametrize("authority", ["", "storage-replicas.millrace:7402"])
async def test_the_host_that_a_sidecar_routes_by(authority: str) -> None:
    said = bytearray()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SETTINGS)
        while b"CommitterService" not in said and (some := await reader.read(4096)):
            said.extend(some)
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    telemetry = start_telemetry("test")
    client = CommitClient(Secret("t"), telemetry, authority)
    table = TableRow(name="t", uid="u", etag="e", created_us=1, updated_us=1, owner="o", body="{}")
    commit = Commit(id="c", kind=CommitKind.APPEND, time_us=1)
    with pytest.raises(StoreUnavailable):
        await client.send(address, table, Proposal(commit=commit, after=6, schema_id=1))
    assert (authority or address).encode() in said
    await client.close()
    await telemetry.close()
    server.close()
