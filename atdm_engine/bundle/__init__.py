"""Specification files become a checked model: registry, domains, scenarios, datasets, versions,
search.
"""
