"""The subset of regular expressions that texts can be generated from, and forbidden texts."""
