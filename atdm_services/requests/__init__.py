"""Requests: resolve, generate, check, stage, load, lease."""
