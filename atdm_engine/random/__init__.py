"""Counter-based random numbers, permutations, run ids."""
