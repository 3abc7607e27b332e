"""A table's maintenance through the client."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from millrace import errors
from millrace.client.session import Client

COLUMNS = {"id": "int64", "at": "timestamp[UTC]", "name": "string?"}
NOW = dt.datetime(2026, 11, 24, tzinfo=dt.UTC)


def rows(*ids: int) -> list[dict[str, Any]]:
    return [{"id": id, "at": NOW, "name": f"n{id}"} for id in ids]


async def test_maintenance_of_a_table(client: Client) -> None:
    await client.create_table("kept", COLUMNS, event_time_column="at", primary_key=["id"])
    table = client.table("kept")
    await table.append(rows(1, 2, 3), writer_id="a")
    first = (await table.info()).version
    await table.append(rows(4, 5), writer_id="b")
    compacted = await table.maintenance.compact(run_id="c")
    assert (compacted.state, compacted.report.files_rewritten) == ("SUCCEEDED", 2)
    assert (await table.maintenance.compact(run_id="c")).report == compacted.report, "attached, not repeated"
    assert (await table.maintenance.restore(first)).report.version > first
    erased = await table.maintenance.erase(keys=[(2,)])
    assert (erased.report.rows_erased, erased.report.verified) == (1, True)
    assert sorted((await table.read().to_arrow()).column("id").to_pylist()) == [1, 3]
    assert (await table.maintenance.erase([("id", ">", 100)])).report.rows_erased == 0
    assert (await table.maintenance.check()).report.verified
    assert [writer.writer_id for writer in await table.maintenance.writers()] == ["a", "b"]
    assert await table.maintenance.delete_writer("b") == 2
    kept = await table.maintenance.retain(rows=dt.timedelta(days=90), versions=dt.timedelta(days=2))
    assert (kept.retention.keep_rows.seconds, kept.retention.keep_versions.seconds) == (90 * 86_400, 2 * 86_400)
    expired = await table.maintenance.expire(keep=1)
    assert expired.report.oldest_version >= erased.report.oldest_version
    with pytest.raises(errors.VersionExpired):
        await table.maintenance.restore(first)
