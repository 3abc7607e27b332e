"""Reference pages say what the contracts say."""

from __future__ import annotations

from tools import contract_reference


def test_the_pages_are_fresh() -> None:
    assert not (stale := contract_reference.stale()), f"{stale}: run `python tools/contract_reference.py`"


def test_every_rpc_and_reason_has_its_words() -> None:
    for page in (contract_reference.rpcs(), contract_reference.errors()):
        rows = [line for line in page.splitlines() if line.startswith("| `")]
        assert len(rows) > 40
        assert all(line.rsplit("|", 2)[1].strip() for line in rows)
