"""Hashes of rows: of what a request made, and of rows as they are.

They detect change and difference; they are no defence against a forger.
"""
