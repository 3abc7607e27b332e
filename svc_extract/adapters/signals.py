"""How far sources are behind, from the statuses that are stored anyway."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from millrace.server import names
from millrace.server.telemetry import Reading, TableLabels, Telemetry
from svc_extract.adapters.storage.catalog import StorageCatalog
from svc_extract.ports import Source, SourceStatus

FRESH_S = 30.0
"""A status is told once a second while there is something to tell: an older one says nothing about now."""


class ObservedCatalog(StorageCatalog):
    """The catalog, whose saved statuses are measured."""

    def __init__(self, as_extract: Any, telemetry: Telemetry, labels: TableLabels) -> None:
        super().__init__(as_extract)
        self._labels = labels
        self._lags: dict[str, tuple[float, str, float]] = {}
        telemetry.gauge(
            names.SOURCE_LAG,
            "s",
            "How far a source's reading is behind its newest record; the worst per table.",
            self._worst,
        )

    async def save(self, *, source: Source | None = None, status: SourceStatus | None = None, **more: Any) -> None:
        await super().save(source=source, status=status, **more)
        if source is not None and status is not None:
            lag_us = status.progress.lag_us
            if lag_us is None:
                self._lags.pop(source.name, None)
            else:
                self._lags[source.name] = (time.monotonic(), source.spec.table, lag_us / 1e6)

    def _worst(self) -> Iterable[Reading]:
        worst: dict[str, float] = {}
        for told, table, lag_s in tuple(self._lags.values()):
            label = self._labels.of(table)[names.TABLE]
            worst[label] = max(worst.get(label, 0.0), lag_s if lag_s == 0 or time.monotonic() - told < FRESH_S else 0.0)
        return [(lag_s, {names.TABLE: label}) for label, lag_s in worst.items()]
