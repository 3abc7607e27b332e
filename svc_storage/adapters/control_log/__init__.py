"""`ControlStore` for many replicas: a state machine over an append-only log that an object store or Cassandra holds."""
