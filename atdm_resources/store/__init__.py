"""The store: files on disk or S3, Parquet staging, specification files."""
