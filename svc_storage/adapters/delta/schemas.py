"""Other columns of a Delta table, as one commit that every Delta reader understands.

delta-rs adds columns and relaxes NOT NULL by a commit of metadata alone. A wider type it refuses so (and readers that meet an older file
refuse it as well: the table feature for it is read by neither delta-rs nor polars), so all files, written anew, replace the old ones in
one overwrite.
"""

from __future__ import annotations

import time

from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Schema
from deltalake.transaction import AddAction, RemoveAction

from svc_storage.adapters.delta import codec
from svc_storage.ports import Commit

_NO_HOOKS = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)


def write(table: DeltaTable, commit: Commit) -> None:
    """Blocking. `table` stands right before the commit, whose `removes` are all of its files where types change.

    Raises what delta-rs raises."""
    assert commit.schema is not None
    properties = CommitProperties(
        custom_metadata={codec.KEY: codec.encode_record(commit)}, max_commit_retries=0, app_transactions=[]
    )
    new = Schema.from_arrow(commit.schema)
    before = {field.name: field for field in table.schema().fields}
    same_types = all(field.name not in before or before[field.name].type == field.type for field in new.fields)
    if same_types and not commit.adds and not commit.removes:
        changed = [
            field for field in new.fields if field.name not in before or before[field.name].nullable != field.nullable
        ]
        table.alter.add_columns(changed, commit_properties=properties, post_commithook_properties=_NO_HOOKS)
        return
    now_ms = time.time_ns() // 1_000_000
    actions: list[AddAction | RemoveAction] = [
        AddAction(file.path, file.size_bytes, {}, file.modified_ms or now_ms, False, file.stats_json)
        for file in commit.adds
    ]
    table.create_write_transaction(
        actions, "overwrite", new, commit_properties=properties, post_commithook_properties=_NO_HOOKS
    )
