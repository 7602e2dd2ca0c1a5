"""Rows by column: resolved requests, plans, layouts, batches."""
