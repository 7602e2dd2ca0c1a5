"""Hashes of rows and of the content of a run."""
