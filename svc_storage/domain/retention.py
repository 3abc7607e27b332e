"""How long a table keeps its rows and versions: part of its definition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from millrace import errors

DAY_US = 24 * 3600 * 1_000_000
MAX_ROWS_US = 365_250 * DAY_US
"""Further back there are no dates to compare with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """Microseconds; 0: rows stay, versions stay as long as the service has it."""

    keep_rows_us: int = 0
    exact: bool = False
    keep_versions_us: int = 0

    def out(self) -> Mapping[str, Any]:
        """For the definition's JSON."""
        return {name: value for name, value in asdict(self).items() if value}

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> Retention:
        return cls(**raw)


NO_RETENTION = Retention()


def check_retention(retention: Retention, event_time_column: str) -> None:
    """Raises FieldInvalid."""
    if retention.keep_rows_us:
        if not event_time_column:
            raise errors.FieldInvalid(
                "rows go by their event time, and the table has no event-time column", field="table.retention.keep_rows"
            )
        if retention.keep_rows_us < DAY_US:
            raise errors.FieldInvalid("rows stay a day at least", field="table.retention.keep_rows")
        if retention.keep_rows_us > MAX_ROWS_US:
            raise errors.FieldInvalid(
                "rows stay 1,000 years at most", field="table.retention.keep_rows", hint="leave it out to keep them"
            )
    elif retention.exact:
        raise errors.FieldInvalid("it goes with keep_rows", field="table.retention.exact")
    if retention.keep_versions_us and not DAY_US <= retention.keep_versions_us <= 365 * DAY_US:
        raise errors.FieldInvalid("versions stay 1 to 365 days", field="table.retention.keep_versions")
