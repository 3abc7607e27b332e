"""What a commit, a lost race and a lost answer look like in the metrics."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from millrace.errors import OutcomeUnknown
from millrace.server import names
from millrace.server.telemetry import start_telemetry
from svc_storage.adapters.memory.backend import MemoryBackend
from svc_storage.adapters.observed import ObservedBackend, Signals
from svc_storage.ports import Commit, CommitKind, VersionTaken
from tests.contract.storage.backends import SCHEMA


async def test_commits_are_measured() -> None:
    reader = InMemoryMetricReader()
    telemetry = start_telemetry("storage", metric_reader=reader)
    signals = Signals(telemetry)
    backend = ObservedBackend(MemoryBackend(), signals)
    await backend.create("u", SCHEMA, time_us=1)
    log, _ = backend.open("u")
    assert log.capabilities.conditional
    await log.append(Commit(id="a", kind=CommitKind.FENCE, time_us=1), after=0)
    with pytest.raises(VersionTaken):
        await log.append(Commit(id="b", kind=CommitKind.FENCE, time_us=1), after=0)

    signals.note("memory", "append", 0.1, OutcomeUnknown("timed out"))
    data = reader.get_metrics_data()
    assert data is not None
    points = {
        metric.name: list(metric.data.data_points)
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    assert points[names.COMMIT_DURATION][0].count == 1  # type: ignore[union-attr]
    assert points[names.COMMIT_CONFLICTS][0].value == 1  # type: ignore[union-attr]
    assert points[names.COMMIT_UNKNOWN_OUTCOMES][0].value == 1  # type: ignore[union-attr]
    assert {point.attributes["op"] for point in points[names.BACKEND_DURATION] if point.attributes} == {"append"}
    await telemetry.close()
