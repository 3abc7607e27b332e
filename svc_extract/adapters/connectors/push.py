"""Programs that push: nothing to read, only to admit."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator

from millrace.errors import FieldInvalid
from millrace.extract.v1 import extract_pb2 as pb
from svc_extract.ports import CheckReport, Chunk, ConnectorInfo, Guarantee, Position, SourceSpec, TableInfo, Until

_WRITER = re.compile(r"[A-Za-z0-9._/-]{1,128}")


class PushConnector:
    info = ConnectorInfo(
        name="push",
        description="Programs that call Ingest, with their own offsets.",
        guarantee=Guarantee.REPLAYABLE,
        formats=("arrow", "rows", "json", "csv"),
        pushed=True,
    )

    def validate(self, spec: SourceSpec) -> None:
        message: pb.PushConnector = spec.options
        if any(not _WRITER.fullmatch(writer) for writer in message.writers):
            raise FieldInvalid("a writer has at most 128 of `[A-Za-z0-9._/-]`", field="push.writers")

    async def check(self, spec: SourceSpec, table: TableInfo) -> CheckReport:
        return CheckReport((), table.schema, Guarantee.REPLAYABLE)

    async def read(
        self, spec: SourceSpec, table: TableInfo, start: Position | None, until: Until
    ) -> AsyncGenerator[Chunk]:
        if spec.connector == self.info.name:
            raise FieldInvalid("rows are pushed to this source: there is nothing to read", field="spec.push")
        yield Chunk()
