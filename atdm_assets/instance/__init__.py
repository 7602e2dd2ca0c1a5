"""What Dagster needs to run: instance, storage, run coordinator, ticks, liveness of runs."""
