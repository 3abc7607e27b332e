"""Rows as Arrow, without any protobuf: which types exist, how client bytes are checked, how batches are cut.

- `types`   the one table of types: `canonical`, `canonical_schema`, `normalise`, `check_values`
- `conform` a batch into a table's schema, exactly or not at all
- `names`   type names for people and YAML: "decimal(10,2)", "list<int64?>"
- `ipc`     `decode` (client bytes, guarded), `read` (our own server's bytes), `encode`
- `slices`  batches cut to message size
"""
