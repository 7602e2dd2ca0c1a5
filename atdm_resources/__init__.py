"""Things with a connection: the target, its catalog, leases and resets, the store, the settings.

Nothing is imported here: a command that leases pays for what it uses alone. ``configurable`` is the
only module of this package that imports Dagster.
"""
