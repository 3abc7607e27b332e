"""A file played by event time."""
