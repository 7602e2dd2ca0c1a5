"""What a recorded run was, and whether a run made again equals it."""
