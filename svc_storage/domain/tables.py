"""Tables as things that are created, listed, changed and deleted. The catalog row is the truth, a folder is named by uid.

Creation writes the folder, then the row: a kill between leaves a folder that nothing names, which garbage collection takes. Deletion
removes the row; the folder goes a day later.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import pyarrow as pa

from millrace import errors
from millrace.failpoints import failpoint
from svc_storage.domain.definition import DEAD_LETTERS, TableDefinition, check_references, table_name
from svc_storage.domain.opened import Opened, OpenTable
from svc_storage.domain.writing import dead_letters
from svc_storage.domain.writing.schema_change import difference, evolve
from svc_storage.ports import Backend, Catalog, Clock, Dependents, RequestMark, Snapshot, TableRow

_COPY = "table.json"


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
        self._check_native(definition)
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

    def _check_native(self, definition: TableDefinition) -> None:
        if not definition.native_lookup:
            return
        if self._opened.key_tables is None:
            raise errors.BackendCapability(
                "this store has no derived tables by key",
                field="table.native_lookup",
                hint="leave it out: LookupRows reads the files",
            )
        if why := self._opened.key_tables("").can_hold(definition.schema, definition.primary_key):
            raise errors.FieldInvalid(why, field="table.native_lookup", hint="leave it out: LookupRows reads the files")

    async def get(self, name: str) -> TableState:
        """`T$dead_letters` too. Raises TableNotFound."""
        base = name.removesuffix(DEAD_LETTERS)
        state = await self._state(await self._row(base))
        return state if base == name else await self._dead_letters(name, state)

    async def list(self, namespace: str, *, after_name: str, limit: int) -> Sequence[TableState]:
        """By name. A damaged table is in the list, without counts: `get` says what is wrong with it."""
        rows = await self._catalog.list_tables(namespace, after_name=after_name, limit=limit)
        return await asyncio.gather(*map(self._listed, rows))

    async def update(
        self, name: str, changed: TableDefinition, *, schema: pa.Schema | None, etag: str, request: RequestMark
    ) -> TableState:
        """Replaces description, rules, retention and event-time column by those of `changed`. `schema`: all columns as they shall be,
        None for no change; they are a commit of its own, before the rest: a kill between leaves the columns, and the repeat does the rest.

        Raises TableNotFound, EtagMismatch, SchemaConflict, FieldInvalid."""
        table_name(name, at="table.name")
        if before := await self._catalog.outcome(request):
            return await self._state(before)
        row = await self._row(name)
        if row.etag != etag:
            raise errors.EtagMismatch("the table changed", field="table.etag", hint="get it, apply the change, repeat")
        table = await self._opened.table(name, uid=row.uid)
        old = TableDefinition.from_json(row.body).at(table.versions.head.schema, table.versions.head.schema_id)
        change = None if schema is None or schema.equals(old.schema) else difference(old, schema)
        columns = old if change is None else evolve(old, change, at="table.schema")
        if changed.primary_key and changed.primary_key != old.primary_key:
            raise errors.FieldInvalid("the primary key cannot be changed", field="table.primary_key")
        if changed.native_lookup and not old.native_lookup:
            raise errors.FieldInvalid(
                "a derived table is asked for when the table is made", field="table.native_lookup"
            )
        if changed.sequence_column and old.sequence_column not in ("", changed.sequence_column):
            raise errors.FieldInvalid("the sequence column cannot be changed", field="table.sequence_column")
        new = replace(
            columns,
            description=changed.description,
            rules=changed.rules,
            event_time_column=changed.event_time_column,
            sequence_column=changed.sequence_column or old.sequence_column,
            retention=changed.retention,
        )
        check_references(new)
        if change is not None:
            await table.committer.change_schema(change, at="table.schema")
        row = replace(row, body=new.to_json(), etag=secrets.token_hex(8), updated_us=self._clock.now_us())
        stored = await self._catalog.update_table(row, expected_etag=etag, request=request)
        await self._keep_row(stored)
        if found := self._opened.find(stored.uid):
            found.redefine(stored)
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
        await files.put_record(_COPY, _copy(row))

    async def _row(self, name: str) -> TableRow:
        if row := await self._catalog.get_table(name):
            return row
        raise errors.TableNotFound(f"`{name}` does not exist", hint="list the tables")

    async def _state(self, row: TableRow) -> TableState:
        definition = TableDefinition.from_json(row.body)
        try:
            table = await self._opened.table(row.name, uid=row.uid)
            await table.refresh()
        except (errors.TableNotFound, errors.TableRecreated):  # an outcome of a table that is gone since
            return _unopened(row, definition)
        head = table.versions.head
        return TableState(row, definition.at(head.schema, head.schema_id), head)

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


async def follow_schema(table: OpenTable, catalog: Catalog, clock: Clock) -> None:
    """The catalog's row learns what columns the log says, so that a table that is only listed, or lost its log, has them too."""
    head, row = table.versions.head, await catalog.get_table(table.row.name)
    if row is None or row.uid != table.row.uid:
        return
    known = TableDefinition.from_json(row.body)
    if known.schema_id >= head.schema_id:
        return
    body = known.at(head.schema, head.schema_id).to_json()
    wanted = replace(row, body=body, etag=secrets.token_hex(8), updated_us=clock.now_us())
    mark = RequestMark(f"{row.uid}/{head.schema_id}/{row.etag}", "millrace.schema", "")
    with contextlib.suppress(errors.EtagMismatch, errors.TableNotFound):  # another one changed it: next time
        stored = await catalog.update_table(wanted, expected_etag=row.etag, request=mark)
        await table.files.put_record(_COPY, _copy(stored))
        table.redefine(stored)


def _copy(row: TableRow) -> bytes:
    return json.dumps(asdict(row)).encode()


def _unopened(row: TableRow, definition: TableDefinition) -> TableState:
    return TableState(row, definition, Snapshot(version=0, time_us=row.created_us, schema=definition.stored_schema))
