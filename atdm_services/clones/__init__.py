"""Clones: a database per test, copied from a baseline or from a pool."""
