"""Assets and checks of reference tables."""
