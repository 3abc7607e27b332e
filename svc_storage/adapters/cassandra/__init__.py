"""Tables in Apache Cassandra: a commit log by lightweight transactions, files as column chunks (storage.md section 5)."""
