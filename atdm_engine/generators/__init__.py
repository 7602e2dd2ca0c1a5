"""Generators: what may stand after ``generate:``, one file each.

A file holds the model, the column types that it fits, its checks, and how it makes values: an Arrow
array, without a loop over rows. ``registry`` lists them; a new one touches no other file. What
several generators share: ``base`` (the model they extend), ``cells`` (what they are given),
``ranges``, ``unique``. Generators know no tables and no files.
"""
