"""One service as it runs, with what an episode asks for: small intervals of upkeep, lost answers, a planted bug.

The product knows nothing of this: the parts that its `__main__` composes are replaced from outside.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import replace
from functools import partial
from typing import Any

from millrace.server.bootstrap import run
from millrace.server.runtime import ServiceSpec
from svc_storage.adapters.pandas_guard import run_without_pandas
from tests.chaos.lost_answers import VARIABLE, Losses

BUG = "MILLRACE_CHAOS_BUG"
SECOND_US = 1_000_000


def prepare_storage(main: Any, losses: Losses) -> None:
    """Compaction, checkpoints and clean-up within seconds; each commit and each transaction may lose its answer."""
    from svc_storage.domain import upkeep
    from svc_storage.domain.writing import compaction

    compaction.FAN_IN, upkeep.SPARSE = 4, 20
    main.Policy = partial(
        main.Policy,
        checkpoint_every=5,
        keep_log_us=SECOND_US,
        keep_versions=6,
        trim_every_us=SECOND_US // 2,
        collect_every_us=5 * SECOND_US,
        orphan_us=20 * SECOND_US,
    )
    if not losses:
        return
    stores = dict(main.STORES)

    class Backend:
        """The real one, whose logs may lose answers."""

        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        def open(self, uid: str) -> Any:
            log, files = self._inner.open(uid)
            return losses.wrap(log, "CommitLog"), losses.wrap(files, "TableFiles")

    def losing(open_store: Any) -> Any:
        async def opened(settings: Any, pool: Any) -> Any:
            store = await open_store(settings, pool)
            return replace(store, backend=Backend(store.backend), control=losses.wrap(store.control, "ControlStore"))

        return opened

    main.STORES = {name: losing(open_store) for name, open_store in stores.items()}


def prepare_extract(main: Any, losses: Losses) -> None:
    sink, catalog = main.StorageSink, main.ObservedCatalog
    main.StorageSink = lambda *args: losses.wrap(sink(*args), "Sink", open="Appender")
    main.ObservedCatalog = lambda *args: losses.wrap(catalog(*args), "Catalog")


def prepare_transform(main: Any, losses: Losses) -> None:
    """What counts as too large for one commit comes every few runs."""
    from svc_transform.domain import run as runs

    runs.ONE_COMMIT_BYTES = 6_000
    outputs = main.StorageOutputs
    main.StorageOutputs = lambda *args: losses.wrap(outputs(*args), "Outputs", open="Output")


PREPARE = {"storage": prepare_storage, "extract": prepare_extract, "transform": prepare_transform}


def start(area: str) -> None:
    """Never returns."""
    if area == "storage":
        run_without_pandas()
    main = importlib.import_module(f"svc_{area}.__main__")
    PREPARE[area](main, Losses.parse(os.environ.get(VARIABLE, "")))
    if bug := os.environ.get(BUG):
        from tests.chaos.planted import plant

        plant(bug)
    run(ServiceSpec(name=area, settings=main.Settings.from_env, compose=main.compose))
