"""The tables' rows over any `ControlStore`: the `Catalog` of the ports. A row's change and its answer are one transaction."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict

from millrace.errors import EtagMismatch, ResourceExists, TableNotFound
from svc_storage.domain.control.requests import answered, keep_answer
from svc_storage.ports import Clock, ControlStore, ControlTransaction, RequestMark, TableRow


class TableRows:
    def __init__(self, store: ControlStore, clock: Clock) -> None:
        self._store, self._clock = store, clock

    async def create_table(self, row: TableRow, request: RequestMark) -> TableRow:
        def work(tx: ControlTransaction) -> TableRow:
            if tx.table(row.name) is not None:
                raise ResourceExists(f"`{row.name}` exists", field="table.name", hint="choose another name")
            tx.put_table(row)
            return row

        return await self._once(request, work)

    async def update_table(self, row: TableRow, *, expected_etag: str, request: RequestMark) -> TableRow:
        def work(tx: ControlTransaction) -> TableRow:
            old = tx.table_by_uid(row.uid)
            if old is None:
                raise _not_found(row.name)
            _check_etag(old, expected_etag)
            tx.put_table(row)
            return row

        return await self._once(request, work)

    async def delete_table(self, name: str, *, expected_etag: str, request: RequestMark) -> TableRow:
        def work(tx: ControlTransaction) -> TableRow:
            old = tx.table(name)
            if old is None:
                raise _not_found(name)
            if expected_etag:
                _check_etag(old, expected_etag)
            tx.remove_table(name)
            return old

        return await self._once(request, work)

    async def outcome(self, request: RequestMark) -> TableRow | None:
        now_us = self._clock.now_us()
        body = await self._store.run(lambda tx: answered(tx, request, now_us))
        return None if body is None else TableRow(**json.loads(body))

    async def get_table(self, name: str) -> TableRow | None:
        return await self._store.run(lambda tx: tx.table(name))

    async def list_tables(self, namespace: str, *, after_name: str, limit: int) -> Sequence[TableRow]:
        return await self._store.run(lambda tx: tx.tables(namespace, after_name=after_name, limit=limit))

    async def _once(self, request: RequestMark, work: Callable[[ControlTransaction], TableRow]) -> TableRow:
        now_us = self._clock.now_us()

        def once(tx: ControlTransaction) -> TableRow:
            if (before := answered(tx, request, now_us)) is not None:
                return TableRow(**json.loads(before))
            row = work(tx)
            keep_answer(tx, request, json.dumps(asdict(row)).encode(), now_us)
            return row

        return await self._store.run(once)


def _check_etag(old: TableRow, expected: str) -> None:
    if old.etag != expected:
        raise EtagMismatch(
            "it was changed meanwhile", field="etag", hint="get it, apply the change again, send the new etag"
        )


def _not_found(name: str) -> TableNotFound:
    return TableNotFound(f"`{name}` does not exist", field="name", hint="list tables to see what there is")
