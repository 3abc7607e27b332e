"""Tables as things that are created, listed, changed and deleted. The catalog row is the truth, a folder is named by uid.

Creation writes the folder, then the row: a kill between leaves a folder that nothing names, which garbage collection takes. Deletion
removes the row; the folder goes a day later.
"""

from __future__ import annotations

import json
import secrets
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import pyarrow as pa

from millrace import errors
from millrace.failpoints import failpoint
from svc_storage.domain import dead_letters
from svc_storage.domain.definition import DEAD_LETTERS, TableDefinition, check_references, table_name
from svc_storage.domain.opened import Opened
from svc_storage.ports import Backend, Catalog, Clock, Dependents, RequestMark, Snapshot, TableRow


@dataclass(frozen=True, slots=True)
class TableState:
    """A table with what its newest version says."""

    row: TableRow
    definition: TableDefinition
    head: Snapshot


class Tables:
    def __init__(
        self, catalog: Catalog, backend: Backend, opened: Opened, dependents: Dependents, clock: Clock
    ) -> None:
        self._catalog, self._backend, self._opened, self._clock = catalog, backend, opened, clock
        self._dependents = dependents

    async def create(self, name: str, definition: TableDefinition, request: RequestMark) -> TableState:
        """Raises ResourceExists, RequestIdReused, FieldInvalid."""
        table_name(name, at="table.name")
        if before := await self._catalog.outcome(request):
            return await self._state(before)
        if await self._catalog.get_table(name):
            raise errors.ResourceExists(
                f"`{name}` exists", field="table.name", hint="choose another name, or update it"
            )
        now_us = self._clock.now_us()
        uid = uuid.uuid4().hex
        row = TableRow(
            name=name,
            uid=uid,
            etag=secrets.token_hex(8),
            created_us=now_us,
            updated_us=now_us,
            owner=request.principal,
            body=definition.to_json(),
        )
        await self._backend.create(uid, definition.stored_schema, time_us=now_us)
        await self._keep_row(row)
        failpoint("storage.after_create_folder")
        stored = await self._catalog.create_table(row, request)
        if stored.uid != uid:
            await self._backend.drop(uid)
        return await self._state(stored)

    async def get(self, name: str) -> TableState:
        """`T$dead_letters` too. Raises TableNotFound."""
        base = name.removesuffix(DEAD_LETTERS)
        state = await self._state(await self._row(base))
        return state if base == name else await self._dead_letters(name, state)

    async def list(self, namespace: str, *, after_name: str, limit: int) -> Sequence[TableState]:
        """By name. A damaged table is in the list, without counts: `get` says what is wrong with it."""
        rows = await self._catalog.list_tables(namespace, after_name=after_name, limit=limit)
        return [await self._listed(row) for row in rows]

    async def update(
        self, name: str, changed: TableDefinition, *, schema: pa.Schema | None, etag: str, request: RequestMark
    ) -> TableState:
        """Replaces description, rules and event-time column by those of `changed`; `schema` None or the table's own.

        Raises TableNotFound, EtagMismatch, FieldInvalid."""
        table_name(name, at="table.name")
        if before := await self._catalog.outcome(request):
            return await self._state(before)
        row = await self._row(name)
        if row.etag != etag:
            raise errors.EtagMismatch("the table changed", field="table.etag", hint="get it, apply the change, repeat")
        old = TableDefinition.from_json(row.body)
        if schema is not None and not schema.equals(old.schema):
            raise errors.FieldInvalid("columns cannot be changed", field="table.schema", hint="create another table")
        if changed.primary_key and changed.primary_key != old.primary_key:
            raise errors.FieldInvalid("the primary key cannot be changed", field="table.primary_key")
        new = replace(
            old, description=changed.description, rules=changed.rules, event_time_column=changed.event_time_column
        )
        check_references(new)
        row = replace(row, body=new.to_json(), etag=secrets.token_hex(8), updated_us=self._clock.now_us())
        stored = await self._catalog.update_table(row, expected_etag=etag, request=request)
        await self._keep_row(stored)
        if table := self._opened.find(stored.uid):
            table.redefine(stored)
        return await self._state(stored)

    async def delete(self, name: str, *, etag: str, request: RequestMark, ignored_user: str = "") -> None:
        """Raises TableNotFound, EtagMismatch, TableHasDependents (metadata names the first; `ignored_user` is none)."""
        table_name(name)
        if await self._catalog.outcome(request):
            return
        row = await self._row(name)
        if users := [user for user in await self._dependents.of(name) if user != ignored_user]:
            raise errors.TableHasDependents(
                f"{users[0]} uses `{name}`",
                metadata={"dependents": ",".join(users[:20])},
                hint="delete what uses it first",
            )
        await self._catalog.delete_table(name, expected_etag=etag, request=request)
        await self._opened.forget(row.uid)

    async def _keep_row(self, row: TableRow) -> None:
        """A copy in the table's folder: what a lost catalog could be made from. The catalog's row is the truth."""
        _, files = self._backend.open(row.uid)
        await files.put_record("table.json", json.dumps(asdict(row)).encode())

    async def _row(self, name: str) -> TableRow:
        if row := await self._catalog.get_table(name):
            return row
        raise errors.TableNotFound(f"`{name}` does not exist", hint="list the tables")

    async def _state(self, row: TableRow) -> TableState:
        definition = TableDefinition.from_json(row.body)
        try:
            table = await self._opened.table(row.name, uid=row.uid)
        except (errors.TableNotFound, errors.TableRecreated):  # an outcome of a table that is gone since
            return _unopened(row, definition)
        return TableState(row, definition, table.versions.head)

    async def _listed(self, row: TableRow) -> TableState:
        try:
            return await self._state(row)
        except errors.Broken:
            return _unopened(row, TableDefinition.from_json(row.body))

    async def _dead_letters(self, name: str, of: TableState) -> TableState:
        view = await self._opened.view(name, uid=of.row.uid)
        definition = TableDefinition(
            schema=dead_letters.SCHEMA,
            event_time_column=dead_letters.EVENT_TIME,
            description=f"Rows that broke the contract of {of.row.name}.",
        )
        return TableState(view.row, definition, await view.snapshot())


def _unopened(row: TableRow, definition: TableDefinition) -> TableState:
    return TableState(row, definition, Snapshot(version=0, time_us=row.created_us, schema=definition.stored_schema))
