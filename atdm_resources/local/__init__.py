"""Servers and processes of this machine: the embedded PostgreSQL, pid records, the Dagster
webserver.
"""
