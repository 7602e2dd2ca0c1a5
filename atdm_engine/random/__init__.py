"""Random numbers and permutations as functions of a counter, and the ids of requests and runs."""
