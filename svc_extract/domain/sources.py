"""Sources: checked before they are stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from millrace import errors
from millrace.errors import FieldInvalid, FixRequest, MillraceError, Missing, NotAllowed
from svc_extract.domain.names import check_request_id, check_table, namespace_of, source_parts
from svc_extract.ports import (
    Catalog,
    CheckReport,
    Connector,
    ConnectorInfo,
    Finding,
    Source,
    SourceSpec,
    Tables,
)

COMMIT_INTERVAL_MS = (100, 60_000)
DEFAULT_PAGE, MAX_PAGE = 50, 1_000


class Sources:
    def __init__(self, catalog: Catalog, tables: Tables, connectors: Mapping[str, Connector]) -> None:
        self._catalog, self._tables, self._connectors = catalog, tables, connectors

    def connectors(self) -> Sequence[ConnectorInfo]:
        return [self._connectors[name].info for name in sorted(self._connectors)]

    def connector(self, spec: SourceSpec) -> Connector:
        """Raises FieldInvalid when this build lacks it."""
        found = self._connectors.get(spec.connector)
        if found is None:
            raise FieldInvalid(f"this build has no connector `{spec.connector}`", field="source.spec")
        return found

    async def check(self, spec: SourceSpec) -> CheckReport:
        """All findings. Raises what makes looking impossible: a malformed spec, a table that does not exist."""
        self._validate(spec)
        table = await self._tables.table(spec.table, as_caller=True)
        return await self.connector(spec).check(spec, table)

    async def examine(self, spec: SourceSpec) -> CheckReport:
        """As `check`, with a spec or a table that is no good as a finding too. Raises only what an outage raises."""
        try:
            return await self.check(spec)
        except (FixRequest, NotAllowed, Missing) as error:
            found = Finding(True, error.reason, error.field, error.message)
            return CheckReport((found,), None, self.connector(spec).info.guarantee)

    async def put(self, source: Source, *, request_id: str, owner: str) -> Source:
        """Stores a source that can work. Raises FixRequest and NotAllowed naming the spec's field, EtagMismatch, TableNotFound."""
        check_request_id(request_id)
        source_parts(source.name, field="source.name")
        try:
            report = await self.check(source.spec)
        except (FixRequest, NotAllowed) as error:
            raise _below(error, "source.spec") from error
        for found in report.findings:
            if found.fatal:
                raise _refused(found)
        return await self._catalog.put_source(source, request_id=request_id, owner=owner)

    async def get(self, name: str) -> Source:
        """Raises SourceNotFound."""
        source_parts(name)
        return await self._catalog.source(name)

    async def page(self, parent: str, *, page_size: int, page_token: str) -> tuple[Sequence[Source], str]:
        if page_size < 0:
            raise FieldInvalid("a page has 1 to 1,000 entries", field="page_size")
        limit = min(page_size or DEFAULT_PAGE, MAX_PAGE)
        return await self._catalog.sources(namespace_of(parent), limit=limit, page_token=page_token)

    async def delete(self, name: str, *, etag: str, request_id: str) -> None:
        check_request_id(request_id)
        source_parts(name)
        await self._catalog.delete_source(name, etag=etag, request_id=request_id)

    def _validate(self, spec: SourceSpec) -> None:
        check_table(spec.table, field="table")
        low, high = COMMIT_INTERVAL_MS
        if spec.commit_interval_ms is not None and not low <= spec.commit_interval_ms <= high:
            raise FieldInvalid("0.1 to 60 s", field="commit_interval")
        connector = self.connector(spec)
        if spec.continuous and not connector.info.continuous:
            raise FieldInvalid(f"`{spec.connector}` cannot run continuously", field="continuous")
        connector.validate(spec)


def _below(error: MillraceError, prefix: str) -> MillraceError:
    """The same error with its field seen from the request."""
    field = f"{prefix}.{error.field}" if error.field else prefix
    return type(error)(
        error.message, field=field, hint=error.hint, metadata=error.metadata, violations=error.violations
    )


def _refused(found: Finding) -> MillraceError:
    kind = errors.reasons().get(found.reason, FieldInvalid)
    if not issubclass(kind, (FixRequest, NotAllowed)):
        kind = FieldInvalid
    return kind(found.message, field=f"source.spec.{found.field}" if found.field else "source.spec")
