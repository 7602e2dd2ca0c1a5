"""The Dagster code location: assets, checks, jobs, sensors, schedules; definitions only.

A folder holds what Dagster shows of one noun. The work itself belongs to ``atdm_services``; what
Dagster needs to run at all belongs to ``instance``.
"""
