"""Leases: answers, fixture files, resets of everything."""
