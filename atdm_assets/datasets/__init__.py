"""Assets and job of datasets."""
