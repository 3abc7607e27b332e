"""Pipeline files: YAML that names sources, tables, transforms and dashboards, read into the contracts' own messages."""
