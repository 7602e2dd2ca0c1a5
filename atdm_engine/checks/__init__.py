"""Checks of generated tables: pandera schemas, columns, rules, references, profiles."""
