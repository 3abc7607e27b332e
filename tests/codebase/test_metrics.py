"""Every metric of names.py is recorded by somebody."""

from __future__ import annotations

import re

from millrace.server import names
from tests.codebase.tree import ROOT


def test_every_metric_is_recorded_somewhere() -> None:
    text = (ROOT / "millrace" / "server" / "names.py").read_text()
    metrics = re.findall(r"^([A-Z_]+) =", text.partition("# metrics")[2].partition("# metadata")[0], re.MULTILINE)
    assert len(metrics) >= 19
    sources = "\n".join(
        path.read_text()
        for folder in (
            "millrace/server",
            *(f"svc_{one}" for one in ("extract", "storage", "transform", "analysis", "viz")),
        )
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "names.py"
    )
    assert [one for one in metrics if f"names.{one}" not in sources and f"metrics.{one}" not in sources] == []
    assert len({getattr(names, one) for one in metrics}) == len(metrics)
