"""Takes a pipeline apart: what reads before what it reads, tables only on an express word."""

from __future__ import annotations

from millrace.cli.kinds import KINDS, get_pipeline, short_name
from millrace.cli.session import Session
from millrace.cli.terminal import note
from millrace.errors import Missing


async def delete_parts(session: Session, name: str, *, with_tables: bool) -> None:
    """Deletes the parts of pipeline `name` (full), the pipeline itself stays. Raises ResourceNotFound when there is none."""
    spec = (await get_pipeline(session, name)).spec
    for collection in ("dashboards", "transforms", "sources", *(["tables"] if with_tables else [])):
        delete = KINDS[collection].delete
        assert delete is not None
        for part in getattr(spec, collection):
            try:
                await delete(session, part)
            except Missing:
                continue
            note(f"{KINDS[collection].singular} {short_name(part)} deleted")
