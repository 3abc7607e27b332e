"""Rows of a database, through ADBC: all of them, or those that a cursor column shows as new."""
