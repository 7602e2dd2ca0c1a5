"""The catalog, schema ``atdm`` of the target: every statement that reads or writes its tables.

A module a noun. Functions take an open connection and return rows as dataclasses or dictionaries.
"""
