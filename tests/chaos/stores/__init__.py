"""Faults under each kind of store: writers append through them, then every row is counted."""
