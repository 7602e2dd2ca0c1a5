"""Baselines: immutable, checksummed, named copies of a domain's tables in the store.

Belongs here: capturing, restoring, listing, verifying, comparing, deleting and cloning them, one
module each. Does not belong here: when and why (the code location), datasets that are generated
(they end as a ``manifest.Manifest`` like any other).
"""
