"""What ATDM does, a folder a noun. No Dagster, no printing, no argument parsing, no SQL text.

A service takes settings or open connections and plain values, and returns plain values. It reports
progress to a ``progress.Reporter``. Importing a package here loads nothing.
"""
