"""Things with a connection: PostgreSQL, the catalog, the store, local servers, telemetry, settings.

No Dagster. Importing a package here loads nothing: a command that leases pays only for what it
uses.
"""
