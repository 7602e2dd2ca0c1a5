"""Making a recorded test run again."""
