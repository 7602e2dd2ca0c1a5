"""How the rows of a request or a dataset are made: request -> plan -> layout -> batches.

Belongs here: what decides which rows there are and what each column is made of. How a value is made
is in ``generators``.
"""
