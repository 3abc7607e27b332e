"""Typed questions to DuckDB's SQL, as sqlglot trees (docs/adr: why not Ibis). Values become typed literals, names quoted identifiers."""
