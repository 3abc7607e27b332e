"""Where exported tables lie: a folder, or a prefix of a bucket. Rows are Parquet."""
