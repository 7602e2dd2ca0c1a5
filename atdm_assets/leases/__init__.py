"""Jobs, sensors and schedules of pools, expiry, resets and retention."""
