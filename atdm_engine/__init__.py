"""Pure functions: specifications, generation, checks. No Dagster, no I/O."""

ENGINE_VERSION = "1"
"""Changes when the same specification and seed would give other data."""
