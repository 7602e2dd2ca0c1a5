"""Assets, checks, jobs and schedules of baselines."""
