"""One run: what is new of the inputs, through the recipe, into the output, exactly once.

Kill it anywhere: rows and position are one commit where they fit into one message; where they do not, the position says first what
is under way, and the run after it repeats the same versions and leaves out what the output has.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace

import pyarrow as pa

from millrace.arrow.widening import widens
from millrace.errors import (
    ChangesNotAppendOnly,
    FieldInvalid,
    SchemaMismatch,
    TableNotFound,
    TableRecreated,
    VersionExpired,
)
from millrace.failpoints import failpoint
from svc_transform.domain.incrementality import Vocabulary, judge
from svc_transform.domain.plan import plan
from svc_transform.ports import (
    Engine,
    Incrementality,
    Inspection,
    Observer,
    Output,
    Outputs,
    Plan,
    Recipe,
    TableFacts,
    Tables,
)

ONE_COMMIT_BYTES = 3_000_000
"""A result up to this size goes out as one batch with its position."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run did (`step`, empty for nothing) and where the output stands now.

    `cancelled`: it stopped between two commits; `position` is then what the next run need not hurry for."""

    step: Plan
    judged: Incrementality
    inputs: tuple[TableFacts, ...]
    position: Mapping[str, str]
    cancelled: bool = False


class _Stopped(Exception):
    """Somebody cancelled the run: what is committed stays, and the run after it goes on there."""


def _never() -> bool:
    return False


class Runner:
    """Plans and runs recipes. Holds no state of its own: all of it is in the output's position."""

    def __init__(self, tables: Tables, engine: Engine, outputs: Outputs, words: Vocabulary) -> None:
        self._tables, self._engine, self._outputs, self._words = tables, engine, outputs, words

    async def validate(self, recipe: Recipe) -> tuple[Inspection, pa.Schema, Incrementality, list[TableFacts]]:
        """What the recipe reads and gives. Raises SqlInvalid, TableNotFound, UnsupportedType; nothing runs."""
        inspection = self._engine.inspect(recipe.sql, recipe.namespace)
        if recipe.output in inspection.inputs:
            raise SchemaMismatch("the output is one of the inputs", field="spec.output", hint="name another output")
        facts = [await self._tables.get(name) for name in inspection.inputs]
        if recipe.driving_table and recipe.driving_table not in inspection.inputs:
            raise FieldInvalid(
                "the SELECT does not read this table", field="spec.driving_table", hint="name one of its inputs"
            )
        schema = await self._engine.columns(recipe.sql, recipe.namespace, facts)
        if recipe.event_time_column and recipe.event_time_column not in schema.names:
            raise FieldInvalid(
                "the SELECT has no such column",
                field="spec.event_time_column",
                hint=f"one of {', '.join(schema.names)}",
            )
        return inspection, schema, self.judge(recipe, inspection), facts

    def judge(self, recipe: Recipe, inspection: Inspection) -> Incrementality:
        """Whether new rows of the driving table alone are enough. A single input drives without being named."""
        named = recipe.driving_table or (inspection.inputs[0] if len(inspection.inputs) == 1 else "")
        return judge(inspection.tree, inspection.written.get(named, named), self._words)

    async def prepare(self, recipe: Recipe) -> TableFacts:
        """The output table, made from the recipe's columns when it is missing. Raises SchemaMismatch where it cannot take them."""
        _, schema, _, _ = await self.validate(recipe)
        try:
            table = await self._tables.get(recipe.output)
        except TableNotFound:
            return await self._create(recipe, schema)
        if (columns := grown(schema, table.schema)) is not None:  # an input gained a column, or a wider one
            table = await self._tables.grow(table, columns)
        check_columns(schema, table.schema)
        return table

    async def differences(self, recipe: Recipe, schema: pa.Schema) -> list[str]:
        """What keeps an output table that is there already from taking the recipe's columns; empty when nothing does."""
        try:
            table = await self._tables.get(recipe.output)
            check_columns(schema, grown(schema, table.schema) or table.schema)
        except TableNotFound:
            return []
        except SchemaMismatch as error:
            return [error.message]
        return []

    async def _create(self, recipe: Recipe, schema: pa.Schema) -> TableFacts:
        return await self._tables.create(
            recipe.output,
            schema,
            event_time_column=recipe.event_time_column,
            description=f"Made by the transform {recipe.short_name}.",
        )

    async def run(
        self,
        recipe: Recipe,
        epoch: int,
        observer: Observer,
        *,
        refresh: bool = False,
        stop: Callable[[], bool] = _never,
    ) -> Outcome:
        """Runs once over what is new; looks at `stop` before each commit. Raises what reading, the engine and storage raise."""
        table = await self.prepare(recipe)
        output = await self._outputs.open(table, recipe, epoch)
        try:
            outcome = await self._plan(recipe, output, refresh)
            if stop():
                return replace(outcome, cancelled=True)
            if outcome.step.replaces_output:
                reason = outcome.step.reason
                await output.close()
                output = await self._outputs.open(await self._tables.empty(table, owner=recipe.name), recipe, epoch)
                outcome = await self._plan(recipe, output, refresh=False)
                outcome = replace(outcome, step=replace(outcome.step, reason=reason))
            if outcome.step.empty:
                return outcome
            await observer.planned(outcome.step)
            try:
                await self._copy(recipe, outcome.step, output, observer, stop)
            except _Stopped:
                return replace(outcome, position=outcome.step.position, cancelled=True)
            except (VersionExpired, TableRecreated, ChangesNotAppendOnly):
                if refresh or outcome.step.full_refresh:
                    raise
                await output.close()
                return await self.run(recipe, epoch, observer, refresh=True, stop=stop)
            return replace(outcome, position=outcome.step.position)
        finally:
            await output.close()

    async def _plan(self, recipe: Recipe, output: Output, refresh: bool) -> Outcome:
        inspection = self._engine.inspect(recipe.sql, recipe.namespace)
        inputs = tuple([await self._tables.get(name) for name in inspection.inputs])
        judged = self.judge(recipe, inspection)
        tables = [table.as_input for table in inputs]
        step = plan(recipe, judged, tables, output.position, output.next_offset, refresh=refresh)
        return Outcome(step, judged, inputs, output.position)

    async def _copy(
        self, recipe: Recipe, step: Plan, output: Output, observer: Observer, stop: Callable[[], bool]
    ) -> None:
        failpoint("transform.before_run")
        async with self._engine.run(recipe.sql, recipe.namespace, step.inputs) as result:
            batches = without_first(result, step.skip)
            held = await anext(batches, None)
            following = await anext(batches, None) if held is not None else None
            fits = held is not None and following is None and held.nbytes <= ONE_COMMIT_BYTES
            read = 0
            if held is not None and fits:
                read = held.num_rows
                await output.write(held, step.position)
            else:
                if held is not None and step.reason != "INTERRUPTED":
                    await output.write(held.slice(0, 0), step.started(output.next_offset, output.position))
                failpoint("transform.after_started")
                while held is not None:
                    if stop():
                        raise _Stopped
                    read += held.num_rows
                    await output.write(held)
                    failpoint("transform.after_batch")
                    await observer.progress(read, output.written)
                    held, following = following, await anext(batches, None) if following is not None else None
                await output.write(EMPTY, step.position)
        failpoint("transform.before_commit")
        await observer.progress(read, await output.commit())
        failpoint("transform.after_commit")


EMPTY = pa.record_batch([], names=[])
"""No rows, no columns: what moves a position alone."""


async def without_first(batches: AsyncIterator[pa.RecordBatch], skip: int) -> AsyncIterator[pa.RecordBatch]:
    """The rows behind the first `skip`; empty batches are left out."""
    async for batch in batches:
        dropped = min(skip, batch.num_rows)
        skip -= dropped
        if batch.num_rows > dropped:
            yield batch.slice(dropped)


def grown(result: pa.Schema, table: pa.Schema) -> pa.Schema | None:
    """The table's columns with those that the recipe gives beyond them or in a wider type; None when that changes nothing."""
    columns = []
    for field in table:
        given = result.get_field_index(field.name)
        wider = given >= 0 and widens(field.type, result.field(given).type)
        columns.append(field.with_type(result.field(given).type) if wider else field)
    columns += [field.with_nullable(True) for field in result if field.name not in table.names]
    found = pa.schema(columns, metadata=table.metadata)
    return None if found.equals(table) else found


def check_columns(result: pa.Schema, table: pa.Schema) -> None:
    """Raises SchemaMismatch where the table cannot take the recipe's columns."""
    for field in result:
        index = table.get_field_index(field.name)
        if index < 0:
            raise SchemaMismatch(
                f"the output table has no column `{field.name}`", field="spec.sql", hint="drop the table or the column"
            )
        if table.field(index).type != field.type:
            raise SchemaMismatch(
                f"column `{field.name}` is {field.type} in the recipe and {table.field(index).type} in the output table",
                field="spec.sql",
                hint="cast it in the SELECT, or name another output",
            )
    for field in table:
        if not field.nullable and result.get_field_index(field.name) < 0:
            raise SchemaMismatch(f"the recipe lacks column `{field.name}`, which may not be NULL", field="spec.sql")
