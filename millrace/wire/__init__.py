"""Rows between Arrow and the wire: schemas, values, batches in both encodings. README.md beside this file lists the calls."""
