"""The audit trail: the report of a run, the seal chain, exports and their verification."""
