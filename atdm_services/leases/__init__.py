"""Leases: answers, fixture files, giving runs back."""
