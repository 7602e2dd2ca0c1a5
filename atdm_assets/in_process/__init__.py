"""Work that runs in this process with the code location of Dagster: requests and datasets."""
