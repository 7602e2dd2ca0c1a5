"""The target database: opening, initialising, what is published in it."""
