"""DuckDB over the files of pinned versions, shared by analysis and transform. See README.md."""
