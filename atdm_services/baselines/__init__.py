"""Baselines: immutable, checksummed, named copies of a domain's tables in the store.

Capture, restore, list, verify, compare and delete. Generated datasets end as the same kind of
manifest.
"""
